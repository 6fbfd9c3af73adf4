// Reads histories in the format of helios-history, one operation per line and an empty line between two
// histories, and prints Porcupine's verdict of each: legal, illegal or unknown.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/anishathalye/porcupine"
)

const timeout = 30 * time.Second

type operation struct {
	Key     string
	Op      any
	Invoked int64
	Outcome any
}

type input struct {
	key, name string
	arg       any
}

// anything is the answer of an operation whose outcome is unknown.
type anything struct{}

// model is the model of one key, whose state is nil, a json.Number or a string.
var model = porcupine.Model{
	Partition: byKey,
	Init:      func() any { return nil },
	Step: func(state, in, answer any) (bool, any) {
		got, next := step(state, in.(input))
		if _, unknown := answer.(anything); unknown {
			return true, next
		}
		return got == answer, next
	},
}

// step returns the answer of an operation and the state after it.
func step(state any, in input) (any, any) {
	switch in.name {
	case "get":
		return state, state
	case "set":
		return "done", in.arg
	case "set_if_absent":
		if state == nil {
			return true, in.arg
		}
		return false, state
	case "delete":
		return state != nil, nil
	case "incr":
		held, isNumber := state.(json.Number)
		if state != nil && !isNumber {
			return "error", state
		}
		sum := json.Number(strconv.FormatInt(number(held)+number(in.arg.(json.Number)), 10))
		return sum, sum
	}
	log.Fatalf("unknown operation %q", in.name)
	return nil, nil
}

func number(text json.Number) int64 {
	if text == "" {
		return 0
	}
	value, err := text.Int64()
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	parts := map[string][]porcupine.Operation{}
	for _, op := range history {
		key := op.Input.(input).key
		parts[key] = append(parts[key], op)
	}
	var found [][]porcupine.Operation
	for _, part := range parts {
		found = append(found, part)
	}
	return found
}

// tagged returns the name and the content of a variant: "name" or {"name": content}.
func tagged(variant any) (string, any) {
	if name, ok := variant.(string); ok {
		return name, nil
	}
	for name, content := range variant.(map[string]any) {
		return name, content
	}
	log.Fatal("a variant without a name")
	return "", nil
}

// translate converts an operation; it returns false for one that had no effect.
func translate(op operation) (porcupine.Operation, bool) {
	name, arg := tagged(op.Op)
	found := porcupine.Operation{
		Input: input{op.Key, name, arg}, Call: op.Invoked, Output: anything{}, Return: math.MaxInt64,
	}
	outcome, content := tagged(op.Outcome)
	if outcome == "ok" {
		ok := content.(map[string]any)
		found.Return = number(ok["returned"].(json.Number))
		answer, value := tagged(ok["answer"])
		if found.Output = value; answer == "done" {
			found.Output = answer
		}
	}
	return found, outcome != "failed"
}

func parse(line []byte) (op operation) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.UseNumber()
	if err := decoder.Decode(&op); err != nil {
		log.Fatal(err)
	}
	return op
}

func check(history []porcupine.Operation) {
	switch porcupine.CheckOperationsTimeout(model, history, timeout) {
	case porcupine.Ok:
		fmt.Println("legal")
	case porcupine.Illegal:
		fmt.Println("illegal")
	default:
		fmt.Println("unknown")
	}
}

func main() {
	var history []porcupine.Operation
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if len(in.Bytes()) == 0 {
			check(history)
			history = nil
			continue
		}
		if op, happened := translate(parse(in.Bytes())); happened {
			history = append(history, op)
		}
	}
	if err := in.Err(); err != nil {
		log.Fatal(err)
	}
	check(history)
}
