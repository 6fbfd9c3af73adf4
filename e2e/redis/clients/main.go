// What an application does with go-redis, against 127.0.0.1:$PORT; ends with a count.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sort"
	"time"

	"github.com/redis/go-redis/v9"
)

var passed, failed int

func check(name string, actual any, err error, expected any) {
	if err == nil && reflect.DeepEqual(actual, expected) {
		passed++
		return
	}
	failed++
	fmt.Fprintf(os.Stderr, "%s: got %v (%v), expected %v\n", name, actual, err, expected)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + os.Getenv("PORT")})
	defer client.Close()

	set, err := client.Set(ctx, "go:k", "v", 100*time.Second).Result()
	check("set", set, err, "OK")
	get, err := client.Get(ctx, "go:k").Result()
	check("get", get, err, "v")
	_, err = client.Get(ctx, "go:absent").Result()
	check("nil", errors.Is(err, redis.Nil), nil, true)
	var count *redis.IntCmd
	_, err = client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, "go:n")
		count = pipe.Incr(ctx, "go:n")
		return nil
	})
	check("pipeline", count.Val(), err, int64(2))
	var hash *redis.MapStringStringCmd
	_, err = client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.HSet(ctx, "go:h", "a", "1")
		hash = pipe.HGetAll(ctx, "go:h")
		return nil
	})
	check("multi", hash.Val(), err, map[string]string{"a": "1"})
	added, err := client.ZAdd(ctx, "go:z", redis.Z{Score: 1.5, Member: "a"}).Result()
	check("zset", added, err, int64(1))
	scored, err := client.ZRangeWithScores(ctx, "go:z", 0, -1).Result()
	check("zrange", scored, err, []redis.Z{{Score: 1.5, Member: "a"}})
	script := redis.NewScript("return redis.call('incrby', KEYS[1], ARGV[1])")
	sum, err := script.Run(ctx, client, []string{"go:n"}, 40).Int64()
	check("script", sum, err, int64(42))
	blocked := make(chan []string, 1)
	go func() {
		element, err := client.BLPop(ctx, 5*time.Second, "go:l").Result()
		if err != nil {
			element = []string{err.Error()}
		}
		blocked <- element
	}()
	client.RPush(ctx, "go:l", "x")
	check("blpop", <-blocked, nil, []string{"go:l", "x"})
	listener := client.Subscribe(ctx, "go:c")
	defer listener.Close()
	_, err = listener.Receive(ctx)
	check("subscribe", true, err, true)
	reached, err := client.Publish(ctx, "go:c", "hi").Result()
	check("publish", reached, err, int64(1))
	message, err := listener.ReceiveMessage(ctx)
	if err == nil {
		check("message", message.Payload, err, "hi")
	}
	var keys []string
	walk := client.Scan(ctx, 0, "go:*", 2).Iterator()
	for walk.Next(ctx) {
		keys = append(keys, walk.Val())
	}
	sort.Strings(keys)
	check("scan", keys, walk.Err(), []string{"go:h", "go:k", "go:n", "go:z"})
	err = client.Watch(ctx, func(tx *redis.Tx) error {
		client.Set(ctx, "go:k", "other", 0)
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, "go:k", "mine", 0)
			return nil
		})
		return err
	}, "go:k")
	check("watch", errors.Is(err, redis.TxFailedErr), nil, true)
	fmt.Printf("%-12s passed %d  failed %d\n", "go-redis", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
