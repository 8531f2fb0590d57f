package main

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

type etcd struct {
	client *clientv3.Client
}

func openEtcd(endpoints []string, connections int) (func(int) (store, error), error) {
	pool := make([]*clientv3.Client, connections)
	for i := range pool {
		client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
		if err != nil {
			return nil, err
		}
		pool[i] = client
	}
	return func(number int) (store, error) { return &etcd{pool[number%len(pool)]}, nil }, nil
}

func (e *etcd) put(key, value string) error {
	_, err := e.client.Put(context.Background(), key, value)
	return err
}

func (e *etcd) get(key string) error {
	_, err := e.client.Get(context.Background(), key)
	return err
}

func (e *etcd) swap(key, value string) (int, error) {
	ctx := context.Background()
	for attempts := 1; ; attempts++ {
		found, err := e.client.Get(ctx, key)
		if err != nil {
			return attempts, err
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", found.Kvs[0].ModRevision)
		written, err := e.client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, value)).Commit()
		if err != nil {
			return attempts, err
		}
		if written.Succeeded {
			return attempts, nil
		}
	}
}
