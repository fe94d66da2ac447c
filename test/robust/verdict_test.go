package robust

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// honest is an account of two clients that saw nothing wrong, one of whose
// calls has no answer.
func honest() *account {
	at := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	kv := func(value string, create, mod, version int64) held { return held{value, create, mod, version} }
	get := []act{{Do: "get", Key: whole}}
	a := &account{
		From: 2, Last: 6,
		Changes: map[int64][]change{
			2: {{Key: "k/0/0", Value: "a"}},
			3: {{Key: "k/0/0", Value: "b"}, {Key: "k/0/1", Value: "c"}},
			4: {{Key: "k/0/1", Delete: true}},
			5: {{Key: "lease/7", Value: ""}},
			6: {{Key: "lease/7", Delete: true}},
		},
		Calls: []*call{
			{Client: 0, Start: at(0), End: at(1), Then: []act{{Do: "put", Key: 0, Value: "a"}}, Succeeded: true, Revision: 2},
			{Client: 0, Start: at(2), End: at(3), Then: get, Succeeded: true, Revision: 2, Got: [][inGroup]held{{kv("a", 2, 2, 1)}}},
			{
				Client: 0, Start: at(4), End: at(5), If: &guard{Key: 0, Mod: 2}, Succeeded: true, Revision: 3,
				Then: []act{{Do: "put", Key: 0, Value: "b"}, {Do: "put", Key: 1, Value: "c"}}, Else: get,
			},
			{Client: 1, Start: at(6), End: at(7), Then: get, Succeeded: true, Revision: 3, Got: [][inGroup]held{{kv("b", 2, 3, 2), kv("c", 3, 3, 1)}}},
			{Client: 1, Start: at(8), End: forever, Then: []act{{Do: "delete", Key: 1}}, Succeeded: true, Fault: "timed out"},
			{Client: 0, Start: at(8), End: forever, Then: []act{{Do: "put", Key: 2, Value: "d"}}, Succeeded: true, Fault: "timed out"},
			{Client: 0, Start: at(9), End: at(11), Then: get, Succeeded: true, Revision: 4, Got: [][inGroup]held{{kv("b", 2, 3, 2)}}},
			{
				Client: 1, Start: at(10), End: at(11), Then: get, Succeeded: true, Serializable: true, Member: 1, Revision: 2,
				Got: [][inGroup]held{{kv("a", 2, 2, 1)}},
			},
		},
		Tenancies: []*tenancy{{ID: 7, Key: "lease/7", Until: at(20)}},
		Lapsed:    map[string]time.Duration{"lease/7": at(21)},
	}
	return a
}

func TestHonestAccountIsAccepted(t *testing.T) {
	a := honest()
	faults := append(a.faults(), a.linearizable(filepath.Join(t.TempDir(), "x"))...)
	if len(faults) > 0 {
		t.Errorf("%q", faults)
	}
	if len(a.Calls) != 7 { // the delete was done, the last put was not
		t.Errorf("%d calls were done", len(a.Calls))
	}
}

// Every check must be able to fail.
func TestPlantedFaultsAreFound(t *testing.T) {
	for name, test := range map[string]struct {
		plant func(a *account)
		says  string // by our own checks
		alone bool   // and porcupine refuses the history without them
	}{
		"a stale read": {func(a *account) {
			a.Calls[3].Revision, a.Calls[3].Got = 2, a.Calls[1].Got
		}, "stale: revision 3", true},
		"a stale read that claims to be new": {func(a *account) { a.Calls[3].Got = a.Calls[1].Got }, "key 0 was", true},
		"a lost write": {func(a *account) {
			a.Changes[2] = []change{{Key: "k/0/0", Value: "other"}}
		}, "lost or another", false},
		"a lost write that reads do not show either": {func(a *account) {
			a.Calls[2].If = nil
			a.Calls[3].Got[0][0] = held{"a", 2, 2, 1}
			a.Calls[6].Got[0][0] = held{"a", 2, 2, 1}
		}, "key 0 was", true},
		"half a transaction": {func(a *account) { a.Changes[3] = a.Changes[3][:1] }, "lost or another", false},
		"a write done twice": {func(a *account) { a.Changes[5] = a.Changes[2] }, "put twice", false},
		"a write that nobody asked for": {func(a *account) {
			a.Changes[5] = []change{{Key: "k/1/0", Value: "x"}}
		}, "nobody asked", false},
		"a delete before it was asked for": {func(a *account) { a.Calls[4].Start = 12 * time.Millisecond }, "nobody asked", false},
		"two for one revision":             {func(a *account) { a.Calls[2].Revision = 2 }, "one revision for two", true},
		"a guard that was wrong":           {func(a *account) { a.Calls[2].If.Mod = 1 }, "compared", true},
		"a revision not told":              {func(a *account) { delete(a.Changes, 5) }, "revision 5 was not told", false},
		"a member that goes back": {func(a *account) {
			a.Calls[6].Member, a.Calls[6].End = 1, 9500*time.Microsecond
		}, "went back", false},
		"a serializable read of what never was": {func(a *account) { a.Calls[7].Got[0][1].Value = "z" }, "key 1 was", false},
		"a lease that ended early":              {func(a *account) { a.Lapsed["lease/7"] = 19 * time.Millisecond }, "its key was gone", false},
		"a lease said to be gone":               {func(a *account) { a.Tenancies[0].Lost = "said to be gone" }, "lived at least", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := honest()
			test.plant(a)
			if faults := strings.Join(a.faults(), "\n"); !strings.Contains(faults, test.says) {
				t.Errorf("not found: %q; found: %q", test.says, faults)
			}
			faults := a.linearizable(filepath.Join(t.TempDir(), "x"))
			if test.alone && len(faults) == 0 {
				t.Error("porcupine accepts it")
			}
		})
	}
}

// What a watcher must not be told is noticed.
func TestObserverFindsFaults(t *testing.T) {
	events := func(revisions ...int64) *pb.WatchResponse {
		r := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revisions[len(revisions)-1]}}
		for _, at := range revisions {
			r.Events = append(r.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k/0/0"), ModRevision: at}})
		}
		return r
	}
	progress := func(to int64) *pb.WatchResponse {
		return &pb.WatchResponse{WatchId: -1, Header: &pb.ResponseHeader{Revision: to}}
	}
	for name, test := range map[string]struct {
		told []*pb.WatchResponse
		says string // nothing: all is well
	}{
		"each once":              {[]*pb.WatchResponse{events(2), events(3, 3, 4), progress(4), events(5)}, ""},
		"one is left out":        {[]*pb.WatchResponse{events(2), events(4)}, "4 was told where 3 was due"},
		"one comes twice":        {[]*pb.WatchResponse{events(2, 3), events(3)}, "3 was told where 4 was due"},
		"they come in disorder":  {[]*pb.WatchResponse{events(2), events(4, 3)}, "4 was told where 3 was due"},
		"one comes in two parts": {[]*pb.WatchResponse{events(2), events(2)}, "2 was told where 3 was due"},
		"progress comes early":   {[]*pb.WatchResponse{events(2), progress(3)}, "progress to 3 before 3"},
		"compacted and gone on":  {[]*pb.WatchResponse{events(2), {CompactRevision: 8}, events(9)}, ""},
		"refused without reason": {[]*pb.WatchResponse{events(2), {CompactRevision: 3}}, "refused with compaction 3"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newObserver(&load{begin: time.Now()}, nil, anyone, 2)
			for _, r := range test.told {
				o.take(r)
			}
			if said := strings.Join(o.faults, "; "); test.says == "" && said != "" || !strings.Contains(said, test.says) {
				t.Errorf("%q instead of %q", said, test.says)
			}
		})
	}
}
