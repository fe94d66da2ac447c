package watch

import (
	"math/rand/v2"
	"slices"
	"strings"

	"kvd/internal/mvcc"
)

// class is the live watchers that want the same events: they are matched and
// encoded for once.
type class struct {
	key, end          string // the span; end is "" for a single key
	open              bool   // no upper end
	noPuts, noDeletes bool
	previous          bool
	live              []*Watcher
	matched           []int32 // scratch of Hub.distribute
	left, right       *class  // the tree of ranges
	priority          uint32
	furthest          string // the furthest end in this subtree
	furthestOpen      bool
}

func (c *class) wants(e *mvcc.Event) bool {
	return e.Delete() && !c.noDeletes || !e.Delete() && !c.noPuts
}

// order makes a total order by start of span.
func (c *class) order(o *class) int {
	if d := strings.Compare(c.key, o.key); d != 0 {
		return d
	}
	if d := strings.Compare(c.end, o.end); d != 0 {
		return d
	}
	return c.flags() - o.flags()
}

func (c *class) flags() int {
	n := 0
	for i, b := range [...]bool{c.open, c.noPuts, c.noDeletes, c.previous} {
		if b {
			n |= 1 << i
		}
	}
	return n
}

// index finds the classes that a key concerns: single keys in a map, ranges in
// a treap by their start, each node knowing the furthest end below it. A
// search visits the matching ranges and about log n others.
type index struct {
	singles map[string][]*class
	ranges  *class
}

// class returns the class of a spec, new or not.
func (x *index) class(s *Spec) *class {
	want := &class{
		key: string(s.Span.Key), noPuts: s.NoPuts, noDeletes: s.NoDeletes, previous: s.Previous,
	}
	if s.Span.Single() {
		for _, c := range x.singles[want.key] {
			if c.order(want) == 0 {
				return c
			}
		}
		x.singles[want.key] = append(x.singles[want.key], want)
		return want
	}
	if want.open = s.Span.Open(); !want.open {
		want.end = string(s.Span.End)
	}
	for c := x.ranges; c != nil; {
		switch d := want.order(c); {
		case d == 0:
			return c
		case d < 0:
			c = c.left
		default:
			c = c.right
		}
	}
	want.priority = rand.Uint32()
	x.ranges = insert(x.ranges, want)
	return want
}

// drop removes a class.
func (x *index) drop(c *class) {
	if c.end != "" || c.open {
		x.ranges = remove(x.ranges, c)
		return
	}
	all := slices.DeleteFunc(x.singles[c.key], func(o *class) bool { return o == c })
	if len(all) == 0 {
		delete(x.singles, c.key)
	} else {
		x.singles[c.key] = all
	}
}

// visit calls f with every class whose span holds key.
func (x *index) visit(key string, f func(*class)) {
	for _, c := range x.singles[key] {
		f(c)
	}
	x.ranges.visit(key, f)
}

func (c *class) visit(key string, f func(*class)) {
	if c == nil || !c.furthestOpen && c.furthest <= key {
		return
	}
	c.left.visit(key, f)
	if c.key > key {
		return // and so is all to the right
	}
	if c.open || key < c.end {
		f(c)
	}
	c.right.visit(key, f)
}

// all lists every class.
func (x *index) all() []*class {
	var all []*class
	for _, some := range x.singles {
		all = append(all, some...)
	}
	var walk func(*class)
	walk = func(c *class) {
		if c != nil {
			walk(c.left)
			all = append(all, c)
			walk(c.right)
		}
	}
	walk(x.ranges)
	return all
}

func insert(root, c *class) *class {
	if root == nil {
		return c.measured()
	}
	if c.priority > root.priority {
		c.left, c.right = split(root, c)
		return c.measured()
	}
	if c.order(root) < 0 {
		root.left = insert(root.left, c)
	} else {
		root.right = insert(root.right, c)
	}
	return root.measured()
}

// split parts a subtree into what is before c and what is after.
func split(root, c *class) (before, after *class) {
	if root == nil {
		return nil, nil
	}
	if c.order(root) < 0 {
		before, root.left = split(root.left, c)
		return before, root.measured()
	}
	root.right, after = split(root.right, c)
	return root.measured(), after
}

func remove(root, c *class) *class {
	switch d := c.order(root); {
	case d == 0:
		return merge(root.left, root.right)
	case d < 0:
		root.left = remove(root.left, c)
	default:
		root.right = remove(root.right, c)
	}
	return root.measured()
}

func merge(a, b *class) *class {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority > b.priority:
		a.right = merge(a.right, b)
		return a.measured()
	default:
		b.left = merge(a, b.left)
		return b.measured()
	}
}

// measured recomputes the furthest end from the node and its children.
func (c *class) measured() *class {
	c.furthest, c.furthestOpen = c.end, c.open
	for _, child := range [...]*class{c.left, c.right} {
		if child != nil {
			c.furthest = max(c.furthest, child.furthest)
			c.furthestOpen = c.furthestOpen || child.furthestOpen
		}
	}
	return c
}
