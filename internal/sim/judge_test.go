package sim

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/member"
	"kvd/internal/store"
)

// settle heals everything and lets the members come to rest: one leader, all
// at its commit index.
func (w *world) settle() {
	w.note("everything heals")
	clear(w.blocked)
	for _, o := range w.clients {
		if o != nil {
			o.leave(w)
		}
	}
	for _, id := range w.ids() {
		n := w.nodes[id]
		if n.paused {
			n.resume()
		}
		if !n.up && !n.removed {
			n.start()
		}
	}
	for end := w.now + settleIn; ; w.now++ {
		if w.rests() {
			break
		}
		w.check(w.now < end, "the members do not come to rest: %s", w.standing())
		w.round()
	}
	w.finalReads()
	for end := w.now + settleIn; w.leader() == nil || w.leader().view.Leases.Len() > 0; w.now++ {
		w.check(w.now < end, "leases do not end: %s", w.standing())
		w.round()
	}
}

// round gives everybody a turn.
func (w *world) round() {
	w.depart()
	for _, id := range w.ids() {
		n := w.nodes[id]
		if !n.up {
			continue
		}
		if w.now%5 == 0 {
			n.tick()
		}
		for range 3 {
			if len(n.appends) > 0 {
				n.append()
			}
			if len(n.applies) > 0 {
				n.apply()
			}
		}
	}
	for range len(w.net) {
		p := w.net[0]
		w.net = w.net[1:]
		w.pass(p, false)
	}
}

// leader is the member that leads in the newest term.
func (w *world) leader() *node {
	var leader *node
	for _, id := range w.ids() {
		n := w.nodes[id]
		if !n.up || n.core.Standing().State != raft.StateLeader {
			continue
		}
		if leader == nil || n.core.Standing().Term > leader.core.Standing().Term {
			leader = n
		}
	}
	return leader
}

// belongs are the members that the leader counts on.
func (w *world) belongs() (all []*node) {
	leader := w.leader()
	if leader == nil {
		return nil
	}
	for _, m := range leader.view.Members.Members() {
		all = append(all, w.nodes[uint64(m.ID)])
	}
	return all
}

func (w *world) rests() bool {
	leader := w.leader()
	if leader == nil || leader.led == 0 || len(leader.appends) > 0 {
		return false
	}
	commit := leader.core.Standing().Commit
	if last, err := leader.log.LastIndex(); err != nil || last != commit || leader.view.Applied != commit {
		return false // a leader that was removed is not among those that belong
	}
	for _, p := range w.net {
		if p.m.GetType() == raftpb.MsgProp {
			return false
		}
	}
	for _, n := range w.belongs() {
		if n == nil || !n.up || n.view.Applied != commit || len(n.applies) > 0 {
			return false
		}
	}
	return true
}

func (w *world) standing() (text string) {
	for _, id := range w.ids() {
		n := w.nodes[id]
		if !n.up {
			text += fmt.Sprintf("%d down; ", id)
			continue
		}
		s := n.core.Standing()
		text += fmt.Sprintf("%d %s term %d leader %d commit %d applied %d voters %v; ", id, s.State, s.Term, s.Leader, s.Commit, n.view.Applied, n.core.Voters())
	}
	return text
}

// finalReads ask every member that belongs for every key.
func (w *world) finalReads() {
	for _, n := range w.belongs() {
		if self, _ := n.view.Members.Member(member.ID(n.id)); self.Learner {
			continue
		}
		for key := range keys {
			o := &op{client: clients, kind: "get", key: key, begin: w.now, end: math.MaxInt64}
			w.history = append(w.history, o)
			w.ask(n, o)
			for end := w.now + 2000; !o.over; w.now++ {
				w.check(w.now < end, "member %d does not answer a read: %s", n.id, w.standing())
				if w.now%100 == 99 { // it may have been lost with a leader
					w.ask(n, o)
				}
				w.round()
			}
			w.now++
		}
	}
}

// compare looks whether all members hold the same rows at the same entry.
func (w *world) compare() {
	for !w.rests() {
		w.now++
		w.round()
	}
	var first *node
	for _, n := range w.belongs() {
		for n.flush(); n.sweep(); n.flush() {
		}
		n.flush()
		if first == nil {
			first = n
			continue
		}
		w.check(n.view.Applied == first.view.Applied, "members %d and %d are at %d and %d", first.id, n.id, first.view.Applied, n.view.Applied)
		a, b := rowsOf(first.store), rowsOf(n.store)
		for at := range min(len(a), len(b)) {
			w.check(bytes.Equal(a[at], b[at]), "members %d and %d differ at entry %d: %q and %q", first.id, n.id, n.view.Applied, a[at], b[at])
		}
		w.check(len(a) == len(b), "members %d and %d have %d and %d rows", first.id, n.id, len(a), len(b))
	}
}

func rowsOf(s *store.Mem) (rows [][]byte) {
	reader, err := s.Read()
	must(err)
	defer reader.Close()
	for _, bucket := range buckets {
		reader.Scan(bucket, nil, nil, func(key, value []byte) bool {
			rows = append(rows, slices.Concat([]byte(bucket+" "), key, []byte(" "), value))
			return true
		})
	}
	return rows
}

// register is what a key may be: a value, or nothing.
var register = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		byKey := make([][]porcupine.Operation, keys)
		for _, o := range all {
			byKey[o.Input.(*op).key] = append(byKey[o.Input.(*op).key], o)
		}
		return byKey
	},
	Init: func() any { return "" },
	Step: func(s, input, _ any) (bool, any) {
		value, o := s.(string), input.(*op)
		switch o.kind {
		case "get":
			return !o.known || o.got == value, value
		case "put":
			return true, o.value
		case "delete":
			return true, ""
		}
		went := value == o.old
		if o.known && went != o.ok {
			return false, value
		}
		if went {
			return true, o.value
		}
		return true, value
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", *input.(*op)) },
}

// judge asks whether there is an order in which the clients can have been
// answered as they were.
func (w *world) judge() string {
	var all []porcupine.Operation
	for _, o := range w.history {
		if o.kind == "get" && !o.known {
			continue // it saw nothing and did nothing
		}
		all = append(all, porcupine.Operation{ClientId: o.client, Input: o, Call: o.begin, Return: o.end})
	}
	switch porcupine.CheckOperationsTimeout(register, all, 20*time.Second) {
	case porcupine.Illegal:
		return "the history is not linearizable"
	case porcupine.Unknown:
		return "the history was not judged in time"
	}
	return ""
}
