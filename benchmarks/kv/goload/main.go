// Load for a store with versioned keys, for benchmarks/kv: etcd through its own client, ours in its own protocol. Prints one JSON object.
//
//	goload -store etcd|quorate -endpoints host:port,… -work put|get|cas|mixed -clients 64 -keys 1000 -seconds 3 -warm 1 -value 100
//
// Each client is a goroutine with one operation open at a time; all share a few connections, as etcd's guide advises.
// cas reads a key and writes it if nobody did meanwhile, until it succeeds.
package main

import (
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
)

// A store as one client sees it. swap returns how often it had to try.
type store interface {
	put(key, value string) error
	get(key string) error
	swap(key, value string) (int, error)
}

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
	kind := flag.String("store", "etcd", "etcd or quorate")
	endpoints := flag.String("endpoints", "", "host:port,…")
	work := flag.String("work", "put", "put, get, cas or mixed")
	clients := flag.Int("clients", 1, "operations open at a time")
	keys := flag.Int("keys", 1000, "different keys")
	seconds := flag.Float64("seconds", 3, "counted")
	warm := flag.Float64("warm", 1, "not counted")
	size := flag.Int("value", 100, "bytes")
	connections := flag.Int("connections", 4, "shared by all clients")
	flag.Parse()

	open := map[string]func([]string, int) (func(int) (store, error), error){"etcd": openEtcd, "quorate": openQuorate}[*kind]
	if open == nil {
		fail(fmt.Errorf("no store %q", *kind))
	}
	client, err := open(strings.Split(*endpoints, ","), min(*connections, *clients))
	if err != nil {
		fail(err)
	}
	value := strings.Repeat("v", *size)
	first, err := client(0)
	if err != nil {
		fail(err)
	}
	for key := 0; key < *keys; key++ {
		if err := first.put(name(key), value); err != nil {
			fail(err)
		}
	}
	var counting, stop atomic.Bool
	var errors atomic.Int64
	outcomes := make([]outcome, *clients)
	var group sync.WaitGroup
	for number := range outcomes {
		own, err := client(number)
		if err != nil {
			fail(err)
		}
		group.Add(1)
		go func(own *outcome, client store, random *rand.Rand) {
			defer group.Done()
			for !stop.Load() {
				began := time.Now()
				attempts, err := operate(client, *work, name(random.Intn(*keys)), value, random)
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
		}(&outcomes[number], own, rand.New(rand.NewSource(int64(number))))
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

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func operate(client store, work, key, value string, random *rand.Rand) (int, error) {
	if work == "mixed" {
		work = []string{"put", "get"}[random.Intn(2)]
	}
	switch work {
	case "put":
		return 1, client.put(key, value)
	case "get":
		return 1, client.get(key)
	}
	return client.swap(key, value)
}
