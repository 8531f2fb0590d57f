// Load for etcd through its own client: the rival's side of benchmarks/kv. Prints one JSON object.
//
//	etcdload -endpoints host:port,… -work put|get|cas|mixed -clients 64 -keys 1000 -seconds 3 -warm 1 -value 100
//
// Each client is a goroutine with one operation open at a time; all share a few connections, as the client's guide advises.
// cas reads a key and writes it if nobody did meanwhile, until it succeeds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type outcome struct {
	done      int
	attempts  int
	latencies []float64
}

type result struct {
	Operations int     `json:"operations"`
	Attempts   int     `json:"attempts"`
	Seconds    float64 `json:"seconds"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	PerClient  []int   `json:"per_client"`
	Errors     int64   `json:"errors"`
}

func main() {
	endpoints := flag.String("endpoints", "", "host:port,…")
	work := flag.String("work", "put", "put, get, cas or mixed")
	clients := flag.Int("clients", 1, "operations open at a time")
	keys := flag.Int("keys", 1000, "different keys")
	seconds := flag.Float64("seconds", 3, "counted")
	warm := flag.Float64("warm", 1, "not counted")
	size := flag.Int("value", 100, "bytes")
	connections := flag.Int("connections", 4, "shared by all clients")
	flag.Parse()

	pool := make([]*clientv3.Client, min(*connections, *clients))
	for i := range pool {
		client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 5 * time.Second})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		pool[i] = client
		defer client.Close()
	}
	value := strings.Repeat("v", *size)
	ctx := context.Background()
	for key := 0; key < *keys; key++ {
		if _, err := pool[0].Put(ctx, name(key), value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var counting, stop atomic.Bool
	var errors atomic.Int64
	outcomes := make([]outcome, *clients)
	var group sync.WaitGroup
	for number := range outcomes {
		group.Add(1)
		go func(own *outcome, client *clientv3.Client, random *rand.Rand) {
			defer group.Done()
			for !stop.Load() {
				began := time.Now()
				attempts, err := operate(ctx, client, *work, name(random.Intn(*keys)), value, random)
				if err != nil {
					errors.Add(1)
					continue
				}
				if counting.Load() {
					own.done++
					own.attempts += attempts
					own.latencies = append(own.latencies, float64(time.Since(began).Nanoseconds())/1e6)
				}
			}
		}(&outcomes[number], pool[number%len(pool)], rand.New(rand.NewSource(int64(number))))
	}
	time.Sleep(time.Duration(*warm * float64(time.Second)))
	fmt.Fprintln(os.Stderr, "counting")
	counting.Store(true)
	began := time.Now()
	time.Sleep(time.Duration(*seconds * float64(time.Second)))
	counting.Store(false)
	elapsed := time.Since(began).Seconds()
	fmt.Fprintln(os.Stderr, "counted")
	stop.Store(true)
	group.Wait()

	found := result{Seconds: elapsed, Errors: errors.Load()}
	var latencies []float64
	for _, own := range outcomes {
		found.Operations += own.done
		found.Attempts += own.attempts
		found.PerClient = append(found.PerClient, own.done)
		latencies = append(latencies, own.latencies...)
	}
	sort.Float64s(latencies)
	if len(latencies) > 0 {
		found.P50 = latencies[len(latencies)/2]
		found.P99 = latencies[len(latencies)*99/100]
	}
	json.NewEncoder(os.Stdout).Encode(found)
}

func name(key int) string { return fmt.Sprintf("bench/%06d", key) }

func operate(ctx context.Context, client *clientv3.Client, work, key, value string, random *rand.Rand) (int, error) {
	if work == "mixed" {
		work = []string{"put", "get"}[random.Intn(2)]
	}
	switch work {
	case "put":
		_, err := client.Put(ctx, key, value)
		return 1, err
	case "get":
		_, err := client.Get(ctx, key)
		return 1, err
	}
	for attempts := 1; ; attempts++ {
		found, err := client.Get(ctx, key)
		if err != nil {
			return attempts, err
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", found.Kvs[0].ModRevision)
		written, err := client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, value)).Commit()
		if err != nil {
			return attempts, err
		}
		if written.Succeeded {
			return attempts, nil
		}
	}
}
