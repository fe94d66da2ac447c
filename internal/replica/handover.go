package replica

import "time"

// handover is leadership on its way to another member.
type handover struct {
	to      uint64
	waiting []waiting[struct{}]
}

func (h *handover) join(to uint64, w waiting[struct{}]) {
	if h.to != to {
		h.fail(ErrTimeoutTransfer) // raft follows the last order
	}
	h.to = to
	h.waiting = append(h.waiting, w)
}

// see follows who leads.
func (h *handover) see(leader uint64) {
	switch {
	case len(h.waiting) == 0 || leader == 0:
	case leader == h.to:
		h.fail(nil)
	}
}

func (h *handover) tick(now time.Time) {
	h.waiting = dropOverdue(h.waiting, now, ErrTimeoutTransfer)
}

// fail ends the waiting; without an error it went well.
func (h *handover) fail(err error) {
	for _, w := range h.waiting {
		w.reply(struct{}{}, err)
	}
	h.waiting = nil
}

// dropOverdue answers with err those whose time is up and returns the others.
func dropOverdue[T any](in []waiting[T], now time.Time, err error) []waiting[T] {
	var none T
	kept := in[:0]
	for _, w := range in {
		if now.Before(w.due) {
			kept = append(kept, w)
			continue
		}
		w.reply(none, err)
	}
	clear(in[len(kept):])
	return kept
}
