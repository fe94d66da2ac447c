package lease

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"kvd/internal/store"
)

// TestConversation plays the goldens: blocks of commands, a line of dashes and
// the answer. Whatever a command writes is committed; reload starts again from
// that.
func TestConversation(t *testing.T) {
	paths := []string{"testdata/book.txt", "testdata/deadlines.txt"}
	for _, path := range paths {
		t.Run(path, func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s := newScene(t)
			for i, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
				commands, want, ok := strings.Cut(block+"\n", "\n----\n")
				if !ok {
					t.Fatalf("block %d has no dashes", i+1)
				}
				var got strings.Builder
				for _, line := range strings.Split(commands, "\n") {
					if !strings.HasPrefix(line, "#") {
						got.WriteString(s.answer(strings.Fields(line)))
					}
				}
				if got.String() != want {
					t.Errorf("after\n%s\nthe answer is\n%s\nwant\n%s", commands, got.String(), want)
				}
			}
		})
	}
}

type scene struct {
	t      *testing.T
	mem    *store.Mem
	book   *Book
	views  map[string]View
	clock  clock
	leader Deadlines
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, mem: store.NewMem(), views: map[string]View{}, clock: newClock()}
	s.reload()
	return s
}

func (s *scene) reload() {
	r, err := s.mem.Read()
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	if s.book, err = Load(r); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) answer(c []string) string {
	var rows store.Batch
	out := s.do(c, &rows)
	if err := s.mem.Commit(store.Stamp{}, &rows); err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *scene) do(c []string, rows *store.Batch) string {
	n := func(i int) int64 {
		v, err := strconv.ParseInt(c[i], 0, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		return v
	}
	switch c[0] {
	case "grant": // id ttl [minTTL]
		least := int64(2)
		if len(c) > 3 {
			least = n(3)
		}
		l, err := s.book.Grant(ID(n(1)), n(2), least, rows)
		if err != nil {
			return err.Error() + "\n"
		}
		return fmt.Sprintf("%d for %d s\n", l.ID, l.TTL)
	case "revoke":
		keys, err := s.book.Revoke(ID(n(1)), rows)
		if err != nil {
			return err.Error() + "\n"
		}
		return fmt.Sprintf("delete %v\n", keys)
	case "checkpoint":
		s.book.Checkpoint(ID(n(1)), n(2), rows)
	case "checkpoint-in-memory":
		s.book.Checkpoint(ID(n(1)), n(2), nil)
	case "attach":
		if !s.book.Attach(ID(n(1)), c[2]) {
			return "no such lease\n"
		}
	case "detach":
		s.book.Detach(ID(n(1)), c[2])
	case "reload":
		s.reload()
	case "raise":
		s.book.Raise(n(1))
	case "view":
		s.views[c[1]] = s.book.View()
	case "show": // a view, or the book as it is
		v := s.book.View()
		if len(c) > 1 {
			v = s.views[c[1]]
		}
		return show(v)
	case "rows":
		return s.rows()
	default:
		return s.lead(c, n)
	}
	return ""
}

func show(v View) string {
	var out strings.Builder
	for _, l := range v.All() {
		fmt.Fprintf(&out, "%d: %d s, %d left %v\n", l.ID, l.TTL, l.Remaining, v.Keys(l.ID))
	}
	fmt.Fprintf(&out, "%d leases\n", v.Len())
	return out.String()
}

func (s *scene) rows() string {
	var out strings.Builder
	r, err := s.mem.Read()
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	r.Scan(store.Lease, nil, nil, func(key, value []byte) bool {
		fmt.Fprintf(&out, "%x = %x\n", key, value)
		return true
	})
	return out.String()
}

// lead answers what a leader's loop would ask of its Deadlines.
func (s *scene) lead(c []string, n func(int) int64) string {
	d := &s.leader
	switch c[0] {
	case "set": // id, seconds from the beginning
		d.Set(ID(n(1)), s.clock.at(c[2]))
	case "set-new": // the same
		d.SetNew(ID(n(1)), s.clock.at(c[2]))
	case "remove":
		d.Remove(ID(n(1)))
	case "demote":
		d.Clear()
	case "promote": // extend
		d.Promote(s.book.View(), s.clock.now, s.clock.duration(c[1]))
	case "checkpoints": // on
		d.Checkpoints = c[1] == "on"
	case "schedule":
		l, _ := s.book.Lease(ID(n(1)))
		d.Schedule(l, s.clock.now)
	case "at":
		s.clock.now = s.clock.at(c[1])
	case "expired":
		return fmt.Sprintf("%v\n", d.Expired(s.clock.now, int(n(1))))
	case "due":
		return fmt.Sprintf("%v\n", d.DueCheckpoints(s.book.View(), s.clock.now, int(n(1))))
	case "order":
		return fmt.Sprintf("%v\n", d.Order())
	case "deadlines":
		var lines []string
		for id := range d.ends.byID {
			at, _ := d.Deadline(id)
			lines = append(lines, fmt.Sprintf("%d at %v\n", id, at.Sub(s.clock.zero)))
		}
		slices.Sort(lines)
		next, ok := d.Next()
		if !ok {
			return strings.Join(lines, "") + "nothing next\n"
		}
		return strings.Join(lines, "") + fmt.Sprintf("next at %v\n", next.Sub(s.clock.zero))
	default:
		s.t.Fatalf("unknown command %v", c)
	}
	return ""
}
