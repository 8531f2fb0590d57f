package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// The protocol is told in src/quorate/kv/wire.py and commands.py.
const (
	hello, write, get          = 1, 2, 3
	commit, openSession        = 1, 2
	modified, put              = 2, 1
	keepFlags                  = 2
	done                       = 0
	ok, conflict               = 0, 1
	sessionTTLms        uint64 = 60_000
)

// One connection, shared: whoever finds nobody else about to write flushes for all.
type channel struct {
	out     *bufio.Writer
	guard   sync.Mutex
	writers int
	waiting map[uint32]chan []byte
	next    uint32
}

type quorate struct {
	channel *channel
	answers chan []byte
	session uint64
	seq     uint64
}

func openQuorate(endpoints []string, connections int) (func(int) (store, error), error) {
	leader, err := findLeader(endpoints[0])
	if err != nil {
		return nil, err
	}
	pool := make([]*channel, connections)
	for i := range pool {
		if pool[i], err = dial(leader); err != nil {
			return nil, err
		}
	}
	return func(number int) (store, error) {
		client := &quorate{channel: pool[number%len(pool)], answers: make(chan []byte, 1)}
		answer, err := client.write(openSession, binary.BigEndian.AppendUint64(nil, sessionTTLms))
		if err != nil {
			return nil, err
		}
		client.session = binary.BigEndian.Uint64(answer[11:])
		return client, nil
	}, nil
}

func findLeader(address string) (string, error) {
	channel, err := dial(address)
	if err != nil {
		return "", err
	}
	answer := (&quorate{channel: channel, answers: make(chan []byte, 1)}).ask(hello, []byte("QKV\x01"))
	var told struct {
		Members []struct {
			ID     int    `json:"id"`
			Client string `json:"client"`
		} `json:"members"`
		Shards []struct {
			Leader int `json:"leader"`
		} `json:"shards"`
	}
	if err := json.Unmarshal(answer[1:], &told); err != nil {
		return "", err
	}
	for _, member := range told.Members {
		if member.ID == told.Shards[0].Leader {
			return member.Client, nil
		}
	}
	return "", errors.New("nobody leads")
}

func dial(address string) (*channel, error) {
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	channel := &channel{out: bufio.NewWriterSize(connection, 1<<16), waiting: map[uint32]chan []byte{}}
	go channel.read(bufio.NewReaderSize(connection, 1<<16))
	return channel, nil
}

func (c *channel) read(in *bufio.Reader) {
	head := make([]byte, 8)
	for {
		if _, err := io.ReadFull(in, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head)-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		id := binary.BigEndian.Uint32(head[4:])
		c.guard.Lock()
		waiting := c.waiting[id]
		delete(c.waiting, id)
		c.guard.Unlock()
		waiting <- body
	}
}

// Status and body of the answer.
func (q *quorate) ask(op byte, body []byte) []byte {
	c := q.channel
	c.guard.Lock()
	c.next++
	id := c.next
	c.waiting[id] = q.answers
	head := make([]byte, 9)
	binary.BigEndian.PutUint32(head, uint32(len(body)+5))
	binary.BigEndian.PutUint32(head[4:], id)
	head[8] = op
	c.out.Write(head)
	c.out.Write(body)
	c.writers++
	mine := c.writers
	c.guard.Unlock()
	// those who come in the meantime leave it to the last of them
	c.guard.Lock()
	if c.writers == mine {
		c.out.Flush()
	}
	c.guard.Unlock()
	return <-q.answers
}

func (q *quorate) write(kind byte, body []byte) ([]byte, error) {
	request := make([]byte, 0, 37+len(body))
	request = binary.BigEndian.AppendUint64(request, 1<<32) // group 1, no turn
	request = binary.BigEndian.AppendUint32(request, uint32(len(body)))
	request = append(request, kind)
	request = binary.BigEndian.AppendUint64(request, q.session)
	request = binary.BigEndian.AppendUint64(request, q.seq)
	request = binary.BigEndian.AppendUint64(request, q.seq)
	answer := q.ask(write, append(request, body...))
	if answer[0] != done {
		return nil, fmt.Errorf("status %d", answer[0])
	}
	return answer[1:], nil
}

func (q *quorate) commit(key, value string, unchanged uint64, conditional bool) (bool, error) {
	body := make([]byte, 0, 64+2*len(key)+len(value))
	if conditional {
		body = append(body, 0, 1, 0, 1, 0, 0, modified)
		body = binary.BigEndian.AppendUint16(body, uint16(len(key)))
		body = append(body, key...)
		body = binary.BigEndian.AppendUint64(body, unchanged)
	} else {
		body = append(body, 0, 0, 0, 1, 0, 0)
	}
	body = append(body, put)
	body = binary.BigEndian.AppendUint16(body, uint16(len(key)))
	body = append(body, key...)
	body = binary.BigEndian.AppendUint32(body, uint32(len(value)))
	body = append(body, value...)
	body = binary.BigEndian.AppendUint64(body, 0) // lease
	body = binary.BigEndian.AppendUint64(body, 0) // flags
	body = append(body, keepFlags)
	q.seq++
	answer, err := q.write(commit, body)
	if err != nil {
		return false, err
	}
	if answer[0] != ok && answer[0] != conflict {
		return false, fmt.Errorf("result %d", answer[0])
	}
	return answer[0] == ok, nil
}

func (q *quorate) put(key, value string) error {
	_, err := q.commit(key, value, 0, false)
	return err
}

func (q *quorate) read(key string) (uint64, error) {
	answer := q.ask(get, append(make([]byte, 16, 16+len(key)), key...))
	if answer[0] != done {
		return 0, fmt.Errorf("status %d", answer[0])
	}
	if answer[9] == 0 {
		return 0, nil
	}
	// u16 length of the key, u32 of the value, u64 version, u64 created, u64 modified
	return binary.BigEndian.Uint64(answer[10+6+16:]), nil
}

func (q *quorate) get(key string) error {
	_, err := q.read(key)
	return err
}

func (q *quorate) swap(key, value string) (int, error) {
	for attempts := 1; ; attempts++ {
		last, err := q.read(key)
		if err != nil {
			return attempts, err
		}
		written, err := q.commit(key, value, last, true)
		if err != nil || written {
			return attempts, err
		}
	}
}
