package state

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/internal/lease"
	"kvd/internal/mvcc"
	"kvd/internal/store"
)

var update = flag.Bool("update", false, "write the goldens anew")

// conversation runs commands against a machine and writes down what it says.
type conversation struct {
	t       *testing.T
	machine *Machine
	disk    *store.Mem
	index   uint64
	out     strings.Builder
}

func converse(t *testing.T) *conversation {
	c := &conversation{t: t, disk: store.NewMem()}
	c.load()
	return c
}

func (c *conversation) load() {
	c.t.Helper()
	reader, err := c.disk.Read()
	if err != nil {
		c.t.Fatal(err)
	}
	defer reader.Close()
	if c.machine, err = Load(reader, c.disk.Read, Options{MinLeaseTTL: 2}); err != nil {
		c.t.Fatal(err)
	}
	c.index, _ = c.machine.Applied()
}

func (c *conversation) apply(r *Request) Outcome {
	c.index++
	out := c.machine.Apply(Entry{Index: c.index, Term: 1, Request: r, Wanted: true})
	if out.Fatal != nil {
		c.t.Fatal(out.Fatal)
	}
	return out
}

// flush commits all rows, as the flusher does.
func (c *conversation) flush() {
	for more := true; more; {
		rev := c.machine.Revision()
		if b := c.machine.Take(); b != nil {
			if err := c.disk.Commit(store.Stamp{Index: c.index, Term: 1}, b); err != nil {
				c.t.Fatal(err)
			}
		}
		c.machine.Stored(rev)
		var err error
		if more, err = c.machine.Sweep(2); err != nil {
			c.t.Fatal(err)
		}
	}
	if b := c.machine.Take(); b != nil {
		if err := c.disk.Commit(store.Stamp{Index: c.index, Term: 1}, b); err != nil {
			c.t.Fatal(err)
		}
	}
}

func kv(t *testing.T, wire []byte) string {
	p, err := mvcc.Parse(wire)
	if err != nil {
		t.Fatal(err)
	}
	s := fmt.Sprintf("%s=%s (create %d, mod %d, version %d", p.Key, p.Value, p.Create, p.Mod, p.Version)
	if p.Lease != 0 {
		s += fmt.Sprintf(", lease %d", p.Lease)
	}
	return s + ")"
}

func (c *conversation) say(format string, args ...any) { fmt.Fprintf(&c.out, format+"\n", args...) }

func (c *conversation) tell(reply any) {
	switch r := reply.(type) {
	case *PutReply:
		if r.Previous != nil {
			c.say("before: %s", kv(c.t, r.Previous))
		}
	case *DeleteReply:
		c.say("deleted %d", r.Deleted)
		for _, p := range r.Previous {
			c.say("before: %s", kv(c.t, p))
		}
	case *RangeReply:
		c.say("rev %d: %d of %d keys, more %v", r.Revision, len(r.KVs), r.Count, r.More)
		for _, p := range r.KVs {
			c.say("  %s", kv(c.t, p))
		}
	case *TxnReply:
		c.say("succeeded %v", r.Succeeded)
		for _, op := range r.Responses {
			c.tell(op)
		}
	case *GrantReply:
		c.say("lease %d for %d s", r.ID, r.TTL)
	case *AlarmReply:
		c.say("alarms %v", r.Alarms)
	}
}

func (c *conversation) outcome(o Outcome) {
	if o.Err != nil {
		c.say("error: %v", o.Err)
		return
	}
	c.tell(o.Reply)
	for _, e := range o.Events {
		what := "put"
		if e.Delete() {
			what = "delete"
		}
		c.say("rev %d.%d: %s %s", e.Revision().Main, e.Revision().Sub, what, e.Key())
	}
}

// command reads one line: a verb, its words, and options name or name=value.
func (c *conversation) command(line string) {
	verb, words, options := parse(line)
	number := func(i int) int64 {
		n, err := strconv.ParseInt(words[i], 10, 64)
		if err != nil {
			c.t.Fatalf("%s: %v", line, err)
		}
		return n
	}
	option := func(name string) int64 {
		n, _ := strconv.ParseInt(options[name], 10, 64)
		return n
	}
	_, prev := options["prev"]
	switch verb {
	case "put":
		_, keepValue := options["ignore-value"]
		_, keepLease := options["ignore-lease"]
		r := &pb.PutRequest{Key: []byte(words[0]), Lease: option("lease"), PrevKv: prev, IgnoreValue: keepValue, IgnoreLease: keepLease}
		if len(words) > 1 {
			r.Value = []byte(words[1])
		}
		c.outcome(c.apply(&Request{Put: r}))
	case "del":
		r := &pb.DeleteRangeRequest{Key: []byte(words[0]), PrevKv: prev}
		if len(words) > 1 {
			r.RangeEnd = []byte(words[1])
		}
		c.outcome(c.apply(&Request{DeleteRange: r}))
	case "get":
		r := &pb.RangeRequest{Key: []byte(words[0]), Revision: option("rev"), Limit: option("limit")}
		if len(words) > 1 {
			r.RangeEnd = []byte(words[1])
		}
		reply, err := c.machine.View().Range(r)
		c.outcome(Outcome{Reply: reply, Err: err})
	case "cas": // cas KEY MOD VALUE, else get
		c.outcome(c.apply(&Request{Txn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte(words[0]), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: number(1)}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(words[0]), Value: []byte(words[2])}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(words[0])}}}},
		}}))
	case "compact":
		c.outcome(c.apply(&Request{Compaction: &pb.CompactionRequest{Revision: number(0)}}))
	case "grant":
		c.outcome(c.apply(&Request{LeaseGrant: &pb.LeaseGrantRequest{ID: number(0), TTL: option("ttl")}}))
	case "revoke":
		c.outcome(c.apply(&Request{LeaseRevoke: &pb.LeaseRevokeRequest{ID: number(0)}}))
	case "keys":
		c.say("%v", c.machine.View().Leases.Keys(lease.ID(number(0))))
	case "alarm":
		action := map[string]pb.AlarmRequest_AlarmAction{"list": 0, "raise": 1, "lower": 2}[words[0]]
		c.outcome(c.apply(&Request{Alarm: &pb.AlarmRequest{Action: action, MemberID: uint64(option("member")), Alarm: pb.AlarmType(pb.AlarmType_value[options["type"]])}}))
	case "flush":
		c.flush()
	case "restart":
		c.flush()
		c.load()
	case "hash":
		c.flush()
		hash, compacted, _, err := c.machine.View().Keys.HashKV(option("rev"))
		c.say("%d, compacted %d, error %v", hash, compacted, err)
	default:
		c.t.Fatalf("no command %q", verb)
	}
}

func parse(line string) (verb string, words []string, options map[string]string) {
	options = map[string]string{}
	for i, word := range strings.Fields(line) {
		name, value, set := strings.Cut(word, "=")
		switch {
		case i == 0:
			verb = word
		case set, name == "prev", name == "ignore-value", name == "ignore-lease":
			options[name] = value
		default:
			words = append(words, strings.ReplaceAll(word, `\0`, "\x00"))
		}
	}
	return verb, words, options
}

// TestGoldens runs every conversation in testdata: commands, a line of dashes,
// what the machine says, an empty line.
func TestGoldens(t *testing.T) {
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".golden"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c := converse(t)
			var got bytes.Buffer
			for block := range strings.SplitSeq(strings.TrimSpace(string(want)), "\n\n") {
				commands, _, _ := strings.Cut(block, "\n----")
				c.out.Reset()
				for line := range strings.SplitSeq(commands, "\n") {
					if !strings.HasPrefix(line, "#") {
						c.command(line)
					}
				}
				fmt.Fprintf(&got, "%s\n----\n%s\n", commands, c.out.String())
			}
			result := append(bytes.TrimSpace(got.Bytes()), '\n')
			if *update {
				if err := os.WriteFile(file, result, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(result, want) {
				t.Errorf("got:\n%s\nwant:\n%s", result, want)
			}
		})
	}
}
