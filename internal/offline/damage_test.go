package offline

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"kvd/internal/bootstrap"
	"kvd/internal/state"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// options are of a member that is its whole cluster.
func options(dir string) bootstrap.Options {
	return bootstrap.Options{
		DataDir: dir, Name: "n1", Token: "token",
		Cluster: []bootstrap.Seed{{Name: "n1", PeerURLs: []string{"http://127.0.0.1:2380"}}}, Advertised: []string{"http://127.0.0.1:2380"},
		Store: store.Options{InitialMmapBytes: 1 << 20, NoSync: true, Timeout: time.Second},
		Log:   wal.Options{SegmentBytes: 8 << 10, NoSync: true},
	}
}

// lived makes a member of the sample, with a log of several segments of which
// the last third is not in the database.
func lived(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "data")
	r := Restore{Snapshot: snapshot(t), Member: options(dir), Bump: 10}
	if _, err := r.Run(t.Context(), Options{}); err != nil {
		t.Fatal(err)
	}
	m, err := bootstrap.Open(t.Context(), options(dir))
	must(t, err)
	for i := range 150 {
		r := &state.Request{Header: &pb.RequestHeader{ID: uint64(i + 1)}}
		if i == 0 { // or nothing could be put
			r.Alarm = &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 77, Alarm: pb.AlarmType_NOSPACE}
		} else {
			r.Put = &pb.PutRequest{Key: fmt.Appendf(nil, "key-%d", i%7), Value: bytes.Repeat([]byte{'v'}, i*3)}
		}
		data, err := state.Encode(r, nil)
		must(t, err)
		index := uint64(i + 2)
		e := &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(1)), Index: &index, Data: data}
		must(t, m.Log.Append(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(m.ID)), Commit: new(index - 1)}, []*raftpb.Entry{e}, true))
		if i < 100 {
			m.Machine.Apply(state.Entry{Index: index, Term: 1, Request: r})
		}
	}
	must(t, m.Store.Commit(store.Stamp{Index: 101, Term: 1}, m.Machine.Take()))
	must(t, m.Close())
	return dir
}

// filesOf are the contents of the files below dir, by name.
func filesOf(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		files[name], err = os.ReadFile(path)
		return err
	}))
	return files
}

func write(t testing.TB, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
}

func TestAMemberThatHasLivedIsSound(t *testing.T) {
	dir := lived(t)
	before := filesOf(t, dir)
	r, err := CheckMember(t.Context(), options(dir), Options{})
	must(t, err)
	if !r.Sound() || len(r.Findings) > 0 || r.Applied != 101 || r.Last != 151 || r.Revision != 55+10+99 || r.Compacted != 65 {
		t.Errorf("%+v", r)
	}
	after := filesOf(t, dir)
	for name := range after {
		if !bytes.Equal(before[name], after[name]) || len(before) != len(after) {
			t.Errorf("a check has changed %s", name)
		}
	}
}

// A kind of damage; it changes the content and says whether that must be found.
type kindOfDamage struct {
	name string
	do   func(rng *rand.Rand, b []byte) (_ []byte, certain bool)
}

func kindsOfDamage() []kindOfDamage {
	at := func(rng *rand.Rand, b []byte) int { return rng.IntN(len(b)) }
	return []kindOfDamage{
		{"emptied", func(*rand.Rand, []byte) ([]byte, bool) { return nil, true }},
		{"cut", func(rng *rand.Rand, b []byte) ([]byte, bool) { return b[:at(rng, b)], true }},
		{"flipped", func(rng *rand.Rand, b []byte) ([]byte, bool) {
			b = slices.Clone(b)
			b[at(rng, b)] ^= 1 << rng.IntN(8)
			return b, false
		}},
		{"zeroed", func(rng *rand.Rand, b []byte) ([]byte, bool) {
			b = slices.Clone(b)
			from := at(rng, b) &^ 511
			clear(b[from:min(from+512<<rng.IntN(5), len(b))])
			return b, false
		}},
		{"scrambled", func(rng *rand.Rand, b []byte) ([]byte, bool) {
			b = slices.Clone(b)
			from := at(rng, b)
			for i := range b[from:min(from+1+rng.IntN(64), len(b))] {
				b[from+i] = byte(rng.Uint32())
			}
			return b, false
		}},
		{"moved", func(rng *rand.Rand, b []byte) ([]byte, bool) { // a page in the place of another
			b = slices.Clone(b)
			from, to := at(rng, b)&^4095, at(rng, b)&^4095
			copy(b[to:min(to+4096, len(b))], b[from:])
			return b, false
		}},
	}
}

// Whatever happens to the files, every verb answers with a result or an error;
// and what the check calls sound is what a member starts from.
func TestDamageIsDiagnosed(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("KVD_OFFLINE_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		must(t, err)
	}
	t.Logf("KVD_OFFLINE_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	whole := filesOf(t, lived(t))
	var names []string
	for name := range whole {
		if filepath.Base(name) != "lock" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	rounds := 80
	if testing.Short() {
		rounds = 30
	}
	found := 0
	for round := range rounds {
		name := names[rng.IntN(len(names))]
		if round%2 == 0 {
			name = "member/snap/db"
		}
		kinds := kindsOfDamage()
		kind := kinds[rng.IntN(len(kinds))]
		damaged, certain := kind.do(rng, whole[name])
		dir := filepath.Join(t.TempDir(), "data")
		write(t, dir, whole)
		write(t, dir, map[string][]byte{name: damaged})
		t.Run(fmt.Sprintf("%d %s %s", round, filepath.Base(name), kind.name), func(t *testing.T) {
			sound := examine(t, dir, name)
			if certain && filepath.Base(name) == "db" && sound && len(bytes.TrimRight(whole[name][len(damaged):], "\x00")) > 0 && len(damaged) < int(highWater(t, whole[name])) {
				t.Error("the check finds it sound")
			}
			if !sound {
				found++
			}
		})
	}
	t.Logf("%d of %d were found", found, rounds)
	if found < rounds/4 {
		t.Errorf("%d of %d were found", found, rounds)
	}
}

// highWater is how much of a database is in use.
func highWater(t testing.TB, content []byte) int64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	must(t, os.WriteFile(path, content, 0o600))
	s, err := StatusOf(path, Options{})
	must(t, err)
	return s.TotalSize
}

// examine runs every verb on a damaged member.
func examine(t *testing.T, dir, name string) (sound bool) {
	before := filesOf(t, dir)
	db := filepath.Join(dir, "member/snap/db")
	report, err := CheckMember(t.Context(), options(dir), Options{})
	if err != nil {
		t.Logf("check: %v", err)
	} else {
		sound = report.Sound()
		for _, f := range report.Findings {
			if f.Problem == "" || f.Where == "" || f.Weight == Fault && f.Remedy == "" {
				t.Errorf("a finding that says nothing: %+v", f)
			}
			t.Logf("check: %+v", f)
		}
	}
	if r, err := CheckFile(t.Context(), db, Options{}); err == nil && r.Sound() {
		_, err := StatusOf(db, Options{})
		must(t, err)
		_, err = HashKVOf(db, 0, Options{})
		must(t, err)
	} else {
		_, _ = StatusOf(db, Options{})
		_, _ = HashKVOf(db, 0, Options{})
	}
	d := Dump{Dir: filepath.Join(dir, "member/wal"), All: true}
	_ = d.Run(func(Line) error { return nil })
	again := filepath.Join(t.TempDir(), "again")
	r := Restore{Snapshot: db, Member: options(again), Unverified: true}
	if _, err := r.Run(t.Context(), Options{}); err == nil {
		starts(t, again)
	} else if _, err := os.Stat(again); err == nil {
		t.Error("a restore that failed leaves something behind")
	}
	for path, content := range filesOf(t, dir) {
		if !bytes.Equal(content, before[path]) {
			t.Errorf("%s was changed", path)
		}
	}
	if _, err := Defrag(t.Context(), options(dir), Options{}); err != nil {
		if !bytes.Equal(filesOf(t, dir)["member/snap/db"], before["member/snap/db"]) {
			t.Error("a defragmentation that failed has changed the database")
		}
	}
	if sound {
		starts(t, dir)
	}
	return sound
}

func starts(t *testing.T, dir string) {
	t.Helper()
	m, err := bootstrap.Open(t.Context(), options(dir))
	if err != nil {
		t.Errorf("a member does not start from it: %v", err)
		return
	}
	must(t, m.Close())
}

// patch writes over content what the patches say, five bytes each: where, and
// with what. Inputs stay small that way. Cut is how much is missing at the end.
func patch(content, patches []byte, cut uint32) []byte {
	content = slices.Clone(content)
	for ; len(patches) >= 5 && len(content) > 0; patches = patches[5:] {
		content[int(binary.LittleEndian.Uint32(patches))%len(content)] = patches[4]
	}
	return content[:len(content)-int(cut)%(len(content)+1)]
}

// FuzzDatabase has all that reads a database read damaged ones.
func FuzzDatabase(f *testing.F) {
	content, err := os.ReadFile(sample(f, "etcd-3.7.3.db"))
	must(f, err)
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{1, 2, 3, 4, 5}, uint32(0))
	f.Add([]byte{0, 16, 0, 0, 5, 8, 48, 0, 0, 7}, uint32(4096))
	f.Fuzz(func(t *testing.T, patches []byte, cut uint32) {
		path := filepath.Join(t.TempDir(), "db")
		must(t, os.WriteFile(path, patch(content, patches, cut), 0o600))
		r, err := CheckFile(t.Context(), path, Options{Timeout: time.Second})
		if err != nil || !r.Sound() {
			return
		}
		if _, err := StatusOf(path, Options{}); err != nil {
			t.Errorf("sound, and: %v", err)
		}
		if _, err := HashKVOf(path, 0, Options{}); err != nil {
			t.Errorf("sound, and: %v", err)
		}
	})
}

// FuzzLog has all that reads a log read damaged ones.
func FuzzLog(f *testing.F) {
	packed, err := os.ReadFile(filepath.Join("..", "wal", "testdata", "etcd-3.7.3", "snapshots", "0000000000000000-0000000000000000.wal.gz"))
	must(f, err)
	in, err := gzip.NewReader(bytes.NewReader(packed))
	must(f, err)
	content, err := io.ReadAll(in)
	must(f, err)
	content = bytes.TrimRight(content, "\x00")
	f.Add([]byte{}, uint32(0))
	f.Add([]byte{0, 1, 0, 0, 9}, uint32(100))
	f.Fuzz(func(t *testing.T, patches []byte, cut uint32) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "0000000000000000-0000000000000000.wal"), patch(content, patches, cut), 0o600))
		d := Dump{Dir: dir, All: true}
		_ = d.Run(func(l Line) error {
			if l.Kind == "" {
				t.Error("a line of no kind")
			}
			return nil
		})
		c := &checker{Report: Report{Log: dir}, options: &Options{}}
		must(t, c.log())
	})
}
