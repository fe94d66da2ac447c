package proxy

// take passes a response on. It reports whether the feed is over.
func (f *feed) take(n *notice) (over bool) {
	f.set.mu.Lock()
	defer f.set.mu.Unlock()
	if f.opened && (n.created || n.id == probeID) {
		f.probed(n)
		return false
	}
	if n.canceled {
		f.cancelled(n)
		return true
	}
	f.header, f.revision = n.header, max(f.revision, n.revision)
	switch {
	case n.created:
		f.opened = true
		f.created(n)
	case n.events > 0 || n.fragment:
		f.pieces = append(f.pieces, n)
		if !n.fragment {
			f.deliver()
		}
	case n.id == -1:
		f.progressed(n)
		f.answer(n)
	default:
		f.progressed(n)
		for w := range f.watchers {
			if w.progress && w.told {
				w.stream.push(response(n.header, w.id, nil))
			}
		}
	}
	f.mergeLocked()
	return false
}

// cancelled tells all watchers what the member said, and ends.
func (f *feed) cancelled(n *notice) {
	for w, told := range f.watchers {
		if w.guards != nil {
			f.free(w)
			continue
		}
		if !told {
			f.refuse(w, n)
			continue
		}
		w.feed, w.header = nil, f.header
		if n.compact == 0 {
			w.stream.forget(w)
		} // else its ID is taken until the client gives it up, as at a member
		w.stream.push(response(n.header, w.id, n.without(responseCreated)))
	}
	f.watchers = nil
	f.endLocked()
}

func (f *feed) created(n *notice) {
	if f.next != 0 {
		return // at another member than before
	}
	f.next = f.start
	if f.start == 0 {
		f.next = n.revision + 1
	}
	for w, told := range f.watchers {
		w.next = max(w.next, f.next)
		if !told {
			f.tell(w, n.header)
		}
	}
	f.restLocked()
}

// progressed notes that everything up to the response's revision has come.
func (f *feed) progressed(n *notice) { f.next = max(f.next, n.revision+1) }

func (f *feed) answer(n *notice) {
	asked := f.asked
	f.asked, f.sending = nil, false
	for _, done := range asked {
		done(n)
	}
	if len(f.asking) > 0 {
		f.signal()
	}
	f.restLocked()
}

// deliver passes the events of a whole response to all watchers.
func (f *feed) deliver() {
	pieces := f.pieces
	f.pieces = nil
	last := pieces[len(pieces)-1].last
	var missed []*watcher
	told := 0
	for w := range f.watchers { // those that lag leave
		if w.next > last {
			continue
		}
		if w.guards != nil {
			f.free(w)
			continue
		}
		if !w.told { // whether it may have them is not known yet
			delete(f.watchers, w)
			missed = append(missed, w)
			continue
		}
		for i, n := range pieces {
			if !w.offer(n, i == 0) {
				f.set.detachLocked(w)
				break
			}
		}
		if w.feed != nil {
			w.next = last + 1
		}
		told++
	}
	f.set.proxy.parts.Metrics.events.Add(float64(told))
	f.next = max(f.next, last+1)
	for _, w := range missed {
		f.set.attachLocked(w, w.next)
	}
	f.restLocked()
}

// mergeLocked moves the watchers to another feed of the topic that has not gone
// further, if there is one, and ends.
func (f *feed) mergeLocked() {
	all := f.set.feeds[f.topic]
	if len(all) < 2 || f.next == 0 {
		return
	}
	for _, other := range all {
		if other == f || other.next == 0 || other.next > f.next || len(f.pieces)+len(f.asked)+len(f.asking) > 0 || f.joining.any() {
			continue
		}
		for w, told := range f.watchers {
			w.feed = other
			other.watchers[w] = told
		}
		f.watchers = nil
		f.endLocked()
		return
	}
}
