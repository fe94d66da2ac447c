package watch

import (
	"log/slog"

	"google.golang.org/protobuf/encoding/protowire"

	"kvd/internal/mvcc"
)

// eventsField is WatchResponse.events: what a batch holds can be put behind any
// response's other fields as it is.
const eventsField = 11

// batch is encoded events of whole revisions, shared by all watchers that want
// exactly these. It never changes.
type batch struct {
	matched     []int32 // which events of its encoder; valid while that is
	first, last int64   // revisions
	revisions   int
	count       int    // events
	bytes       []byte // WatchResponse.events fields
}

// encoder encodes each of a portion's events once, with and without the state
// before it.
type encoder struct {
	view   *mvcc.View
	events []*mvcc.Event
	log    *slog.Logger
	plain  [][]byte // by event; nil where not yet needed
	full   [][]byte // the same, with the previous state
}

// piece is the encoded event i.
func (x *encoder) piece(i int32, previous bool) []byte {
	e := x.events[i]
	previous = previous && !e.Created()
	cache := &x.plain
	if previous {
		cache = &x.full
	}
	if *cache == nil {
		*cache = make([][]byte, len(x.events))
	}
	if b := (*cache)[i]; b != nil {
		return b
	}
	var before []byte
	if previous {
		before = x.previous(e)
	}
	size := e.Size(before)
	b := make([]byte, 0, protowire.SizeTag(eventsField)+protowire.SizeBytes(size))
	b = protowire.AppendTag(b, eventsField, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = e.Append(b, before)
	(*cache)[i] = b
	return b
}

// previous is absent where a compaction has removed it, as in etcd.
func (x *encoder) previous(e *mvcc.Event) []byte {
	before, ok, err := x.view.Previous(e)
	if err != nil {
		x.log.Error("an event is sent without its previous state", "revision", e.Revision().String(), "error", err)
	}
	if err != nil || !ok {
		return nil
	}
	return before
}

// batch joins the events that matched, of which there is at least one. A
// single one is shared with all other batches that hold it.
func (x *encoder) batch(matched []int32, previous bool) batch {
	first, last := x.events[matched[0]], x.events[matched[len(matched)-1]]
	b := batch{
		matched: matched,
		first:   first.Revision().Main,
		last:    last.Revision().Main,
		count:   len(matched),
	}
	size, rev := 0, int64(0)
	for _, i := range matched {
		size += len(x.piece(i, previous))
		if r := x.events[i].Revision().Main; r != rev {
			b.revisions++
			rev = r
		}
	}
	if len(matched) == 1 {
		b.bytes = x.piece(matched[0], previous)
		return b
	}
	b.bytes = make([]byte, 0, size)
	for _, i := range matched {
		b.bytes = append(b.bytes, x.piece(i, previous)...)
	}
	return b
}

// whole names all events.
func (x *encoder) whole() []int32 {
	all := make([]int32, len(x.events))
	for i := range all {
		all[i] = int32(i)
	}
	return all
}

// since names the events of b from revision rev on.
func (x *encoder) since(b *batch, rev int64) []int32 {
	for at, i := range b.matched {
		if x.events[i].Revision().Main >= rev {
			return b.matched[at:]
		}
	}
	return nil
}
