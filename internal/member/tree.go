package member

import (
	"strings"
	"time"
)

// The dump of etcd's old store of paths, which now holds the membership and
// nothing else. etcd up to 3.6 reads it from snapshots of the log; 3.7 writes it
// and reads it no more. It is made anew each time, as if the members had just
// been written to an empty store one by one, so its indexes count those writes.
type dump struct {
	Root           *node
	WatcherHub     hub
	CurrentIndex   uint64
	Stats          stats
	CurrentVersion int
}

type node struct {
	Path          string
	CreatedIndex  uint64
	ModifiedIndex uint64
	ExpireTime    time.Time // never
	Value         string
	Children      map[string]*node // nil in a leaf
}

type hub struct{ EventHistory history }

type history struct {
	Queue      ring
	StartIndex uint64
	LastIndex  uint64
}

// ring is a queue in an array of fixed length: readers write on into it.
type ring struct {
	Events   []*event
	Size     int
	Front    int
	Back     int
	Capacity int
}

type event struct {
	Action string `json:"action"`
	Node   leaf   `json:"node"`
}

type leaf struct {
	Key      string `json:"key"`
	Value    string `json:"value"`
	Modified uint64 `json:"modifiedIndex"`
	Created  uint64 `json:"createdIndex"`
}

// stats has all the counters of the old store; most never count.
type stats struct {
	GetSuccess              uint64 `json:"getsSuccess"`
	GetFail                 uint64 `json:"getsFail"`
	SetSuccess              uint64 `json:"setsSuccess"`
	SetFail                 uint64 `json:"setsFail"`
	DeleteSuccess           uint64 `json:"deleteSuccess"`
	DeleteFail              uint64 `json:"deleteFail"`
	UpdateSuccess           uint64 `json:"updateSuccess"`
	UpdateFail              uint64 `json:"updateFail"`
	CreateSuccess           uint64 `json:"createSuccess"`
	CreateFail              uint64 `json:"createFail"`
	CompareAndSwapSuccess   uint64 `json:"compareAndSwapSuccess"`
	CompareAndSwapFail      uint64 `json:"compareAndSwapFail"`
	CompareAndDeleteSuccess uint64 `json:"compareAndDeleteSuccess"`
	CompareAndDeleteFail    uint64 `json:"compareAndDeleteFail"`
	ExpireCount             uint64 `json:"expireCount"`
	Watchers                uint64 `json:"watchers"`
}

const (
	ringLength = 1000
	treeFormat = 2
)

type raftAttributes struct {
	PeerURLs []string `json:"peerURLs"`
	Learner  bool     `json:"isLearner,omitempty"`
}

type attributes struct {
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

func tree(f *facts) []byte {
	d := &dump{
		Root:           &node{Path: "/", Children: map[string]*node{}},
		CurrentVersion: treeFormat,
	}
	d.Root.dir("0", 0)
	d.Root.dir("1", 0)
	d.WatcherHub.EventHistory.Queue = ring{Events: make([]*event, ringLength), Capacity: ringLength}
	d.Stats.GetFail = 1 // etcd looks whether the store is empty
	for _, m := range f.members {
		at := "/0/members/" + m.ID.String()
		d.create(at+"/raftAttributes", string(mustJSON(raftAttributes{m.PeerURLs, m.Learner})))
		if m.ClientURLs != nil {
			d.set(at+"/attributes", string(mustJSON(attributes{m.Name, m.ClientURLs})))
		}
	}
	for _, id := range f.removed {
		d.create("/0/removed_members/"+id.String(), "")
	}
	if f.version.Known() {
		d.set("/0/version", f.version.String())
	}
	return mustJSON(d)
}

func (d *dump) create(path, value string) {
	d.Stats.CreateSuccess++
	d.write("create", path, value)
}

func (d *dump) set(path, value string) {
	d.Stats.SetSuccess++
	d.write("set", path, value)
}

// write puts a leaf, with the directories on the way, and notes the event.
func (d *dump) write(action, path, value string) {
	d.CurrentIndex++
	at := d.Root
	names := strings.Split(path[1:], "/")
	for _, name := range names[:len(names)-1] {
		at = at.dir(name, d.CurrentIndex)
	}
	at.Children[names[len(names)-1]] = &node{
		Path: path, CreatedIndex: d.CurrentIndex, ModifiedIndex: d.CurrentIndex, Value: value,
	}
	d.WatcherHub.EventHistory.note(&event{action, leaf{path, value, d.CurrentIndex, d.CurrentIndex}})
}

// dir returns the directory of that name, made at index if it is not there.
func (n *node) dir(name string, index uint64) *node {
	child := n.Children[name]
	if child == nil {
		child = &node{
			Path: strings.TrimSuffix(n.Path, "/") + "/" + name, CreatedIndex: index, ModifiedIndex: index,
			Children: map[string]*node{},
		}
		n.Children[name] = child
	}
	return child
}

// note keeps the newest events; the oldest give way.
func (h *history) note(e *event) {
	q := &h.Queue
	q.Events[q.Back] = e
	q.Back = (q.Back + 1) % q.Capacity
	if q.Size == q.Capacity {
		q.Front = (q.Front + 1) % q.Capacity
	} else {
		q.Size++
	}
	h.StartIndex = q.Events[q.Front].Node.Modified
	h.LastIndex = e.Node.Modified
}
