// Uses the store as programs in Go use Consul: through github.com/hashicorp/consul/api, unmodified. Prints one line for each thing that works,
// and ends with status 1 and a sentence at the first that does not.
//
//	consulgo host:port host:port …
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const workers, each = 4, 5

func main() {
	clients := make([]*api.Client, len(os.Args)-1)
	for i, address := range os.Args[1:] {
		config := api.DefaultConfig()
		config.Address = address
		client, err := api.NewClient(config)
		must(err)
		clients[i] = client
	}
	keys(clients)
	transaction(clients)
	blocking(clients)
	locks(clients)
	semaphores(clients)
	ephemeral(clients)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(holds bool, what string, found ...any) {
	if !holds {
		must(fmt.Errorf("%s: %v", what, found))
	}
}

func keys(clients []*api.Client) {
	one, other := clients[0].KV(), clients[1].KV()
	_, err := one.Put(&api.KVPair{Key: "go/a", Value: []byte("1"), Flags: 42}, nil)
	must(err)
	pair, meta, err := other.Get("go/a", nil)
	must(err)
	check(pair != nil && bytes.Equal(pair.Value, []byte("1")) && pair.Flags == 42 && meta.LastIndex > 0, "get", pair, meta)
	done, _, err := other.CAS(&api.KVPair{Key: "go/a", Value: []byte("2"), ModifyIndex: pair.ModifyIndex}, nil)
	must(err)
	check(done, "cas")
	done, _, err = one.CAS(&api.KVPair{Key: "go/a", Value: []byte("3"), ModifyIndex: pair.ModifyIndex}, nil)
	must(err)
	check(!done, "a second cas")
	_, err = one.Put(&api.KVPair{Key: "go/b/c", Value: nil}, nil)
	must(err)
	names, _, err := other.Keys("go/", "/", nil)
	must(err)
	check(len(names) == 2 && names[0] == "go/a" && names[1] == "go/b/", "keys", names)
	pairs, _, err := other.List("go/", nil)
	must(err)
	check(len(pairs) == 2, "list", pairs)
	_, err = one.DeleteTree("go/", nil)
	must(err)
	pair, _, err = other.Get("go/a", &api.QueryOptions{RequireConsistent: true})
	must(err)
	check(pair == nil, "get after a deletion", pair)
	fmt.Println("keys")
}

func transaction(clients []*api.Client) {
	operations := api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "txn/a", Value: []byte("1")}},
		{KV: &api.KVTxnOp{Verb: api.KVGet, Key: "txn/a"}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "txn/b"}},
	}
	done, answer, _, err := clients[0].Txn().Txn(operations, nil)
	must(err)
	check(done && len(answer.Results) == 2 && string(answer.Results[1].KV.Value) == "1", "txn", done, answer)
	operations = api.TxnOps{
		{KV: &api.KVTxnOp{Verb: api.KVSet, Key: "txn/b", Value: []byte("1")}},
		{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: "txn/a"}},
	}
	done, answer, _, err = clients[1].Txn().Txn(operations, nil)
	must(err)
	check(!done && len(answer.Errors) == 1 && answer.Errors[0].OpIndex == 1, "a txn that fails", done, answer)
	pair, _, err := clients[0].KV().Get("txn/b", nil)
	must(err)
	check(pair == nil, "what it would have written", pair)
	fmt.Println("transaction")
}

func blocking(clients []*api.Client) {
	_, err := clients[0].KV().Put(&api.KVPair{Key: "wait", Value: []byte("1")}, nil)
	must(err)
	_, meta, err := clients[1].KV().Get("wait", nil)
	must(err)
	told := make(chan *api.KVPair)
	go func() {
		pair, _, err := clients[1].KV().Get("wait", &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute})
		must(err)
		told <- pair
	}()
	_, err = clients[2%len(clients)].KV().Put(&api.KVPair{Key: "wait", Value: []byte("2")}, nil)
	must(err)
	pair := <-told
	check(string(pair.Value) == "2", "a blocking read", pair)
	fmt.Println("blocking")
}

// A counter that is read and written under a lock: nothing is lost only if nobody else was in between.
func locks(clients []*api.Client) {
	var group sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func(client *api.Client) {
			defer group.Done()
			for i := 0; i < each; i++ {
				lock, err := client.LockOpts(&api.LockOptions{Key: "lock", SessionTTL: "10s", LockDelay: time.Millisecond})
				must(err)
				lost, err := lock.Lock(nil)
				must(err)
				check(lost != nil, "the lock is not had")
				pair, _, err := client.KV().Get("counter", &api.QueryOptions{RequireConsistent: true})
				must(err)
				value := 0
				if pair != nil {
					value, err = strconv.Atoi(string(pair.Value))
					must(err)
				}
				_, err = client.KV().Put(&api.KVPair{Key: "counter", Value: []byte(strconv.Itoa(value + 1))}, nil)
				must(err)
				must(lock.Unlock())
			}
		}(clients[worker%len(clients)])
	}
	group.Wait()
	pair, _, err := clients[0].KV().Get("counter", nil)
	must(err)
	check(string(pair.Value) == strconv.Itoa(workers*each), "the counter", string(pair.Value))
	fmt.Println("locks")
}

func semaphores(clients []*api.Client) {
	var group sync.WaitGroup
	var inside, most atomic.Int64
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func(client *api.Client) {
			defer group.Done()
			semaphore, err := client.SemaphoreOpts(&api.SemaphoreOptions{Prefix: "semaphore", Limit: 2, SessionTTL: "10s"})
			must(err)
			_, err = semaphore.Acquire(nil)
			must(err)
			now := inside.Add(1)
			for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
			}
			inside.Add(-1)
			must(semaphore.Release())
		}(clients[worker%len(clients)])
	}
	group.Wait()
	check(most.Load() >= 1 && most.Load() <= 2, "holders of a semaphore for two", most.Load())
	fmt.Println("semaphores")
}

// A key that goes with its session.
func ephemeral(clients []*api.Client) {
	session, _, err := clients[0].Session().Create(&api.SessionEntry{Behavior: api.SessionBehaviorDelete, TTL: "10s"}, nil)
	must(err)
	held, _, err := clients[1].KV().Acquire(&api.KVPair{Key: "ephemeral", Session: session}, nil)
	must(err)
	check(held, "acquire")
	entry, _, err := clients[1].Session().Renew(session, nil)
	must(err)
	check(entry != nil && entry.ID == session, "renew", entry)
	_, err = clients[0].Session().Destroy(session, nil)
	must(err)
	pair, _, err := clients[1].KV().Get("ephemeral", nil)
	must(err)
	check(pair == nil, "the key of a session that ended", pair)
	fmt.Println("ephemeral")
}
