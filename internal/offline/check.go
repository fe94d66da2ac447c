package offline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kvd/internal/bootstrap"
	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// Weight is how bad a finding is.
type Weight string

// The weights of findings.
const (
	// Fault: the member would not start, or would serve what was not written.
	Fault Weight = "error"
	// Doubt: it would start, but somebody should look at it.
	Doubt Weight = "warning"
	// Remark: good to know.
	Remark Weight = "note"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Weight  Weight `json:"weight"`
	Where   string `json:"where"` // a file or directory, or a part of the database
	Problem string `json:"problem"`
	Remedy  string `json:"remedy,omitempty"`
}

// Report is what a check has found.
type Report struct {
	Database  string    `json:"database"`
	Log       string    `json:"log,omitempty"` // empty: a file alone was checked
	Member    string    `json:"member,omitempty"`
	Cluster   string    `json:"cluster,omitempty"`
	Members   int       `json:"members"`
	Version   string    `json:"version,omitempty"` // of the layout
	Revision  int64     `json:"revision"`
	Compacted int64     `json:"compacted"`
	Keys      int       `json:"keys"`
	Rows      int64     `json:"rows"` // of the keyspace
	Leases    int       `json:"leases"`
	Size      int64     `json:"size"`
	Applied   uint64    `json:"applied"` // the entry that the database is at
	First     uint64    `json:"first,omitempty"`
	Last      uint64    `json:"last,omitempty"`
	Commit    uint64    `json:"commit,omitempty"`
	Findings  []Finding `json:"findings"`
}

// Sound reports whether a member could start from it and serve the truth.
func (r *Report) Sound() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Weight == Fault })
}

func (r *Report) add(w Weight, where, remedy, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{Weight: w, Where: where, Problem: fmt.Sprintf(format, args...), Remedy: remedy})
}

// What to do about damage.
const (
	remedyReplace = "keep a copy; then, if the other members of its cluster are sound, let it fetch the data from them (kvd member rejoin), else restore a snapshot (kvd snapshot restore)"
	remedyAnother = "take another snapshot"
	remedyVersion = "see what wrote it; a snapshot can be restored by a version in between"
)

// CheckFile checks a snapshot, or the database of a member that does not run.
// The error is for what could not be looked at; what was found is in the report.
func CheckFile(ctx context.Context, path string, o Options) (*Report, error) {
	c := &checker{Report: Report{Database: path}, options: &o, remedy: remedyAnother}
	if err := c.database(ctx); err != nil {
		return nil, err
	}
	switch err := verifyDigest(path, &o); {
	case errors.Is(err, ErrDigest):
		c.add(Fault, path, remedyAnother, "%v", ErrDigest)
	case errors.Is(err, ErrNoDigest) && !c.Sound(): // it was cut off, too
	case errors.Is(err, ErrNoDigest):
		c.add(Remark, path, "", "%v: it is not a snapshot that was saved, but a database that was copied", ErrNoDigest)
	case err != nil:
		return nil, err
	}
	return &c.Report, nil
}

// CheckMember checks the log and the database of a member that does not run,
// and whether they fit together.
func CheckMember(ctx context.Context, at bootstrap.Options, o Options) (*Report, error) {
	remains, err := hold(at, o.Timeout)
	if err != nil {
		return nil, err
	}
	defer remains.Release()
	if len(remains.Paths) == 0 {
		return nil, fmt.Errorf("%s: there is no member in it (%w)", at.DataDir, os.ErrNotExist)
	}
	paths := at.Paths()
	c := &checker{Report: Report{Database: paths.Database, Log: paths.Log}, options: &o, remedy: remedyReplace}
	if err := c.log(); err != nil {
		return nil, err
	}
	if err := c.databaseOf(ctx, paths); err != nil {
		return nil, err
	}
	c.together(paths)
	c.around(paths)
	return &c.Report, nil
}

// hold keeps other processes out of a member's directory.
func hold(at bootstrap.Options, wait time.Duration) (*bootstrap.Remains, error) {
	until := time.Now().Add(wait)
	for {
		remains, err := bootstrap.Inspect(at)
		if !errors.Is(err, bootstrap.ErrHeld) || wait > 0 && time.Now().After(until) {
			return remains, err
		}
		time.Sleep(pause)
	}
}

// pause is between two attempts at a lock.
const pause = 50 * time.Millisecond

// databaseOf checks the member's database, if it is there.
func (c *checker) databaseOf(ctx context.Context, paths bootstrap.Paths) error {
	_, err := os.Stat(paths.Database)
	if errors.Is(err, os.ErrNotExist) {
		if c.health != nil && c.health.Start.Index == 0 {
			c.add(Doubt, paths.Database, "start the member: it makes the database again from the log, which is complete", "it is missing")
			return nil
		}
		c.add(Fault, paths.Database, remedyReplace, "it is missing, and the log does not reach back to the first entry")
		return nil
	}
	return c.database(ctx)
}

// together checks that the log goes on where the database ends.
func (c *checker) together(paths bootstrap.Paths) {
	h := c.health
	if h == nil || !c.read {
		return
	}
	at := c.stamp
	switch {
	case at.Index < h.Start.Index:
		if _, err := os.Stat(paths.Image(h.Start.Index)); err == nil {
			c.add(Remark, paths.Image(h.Start.Index), "start the member", "the leader's snapshot is still to take the place of the database")
			return
		}
		c.add(Fault, paths.Database, "put the newer database back; else "+remedyReplace,
			"it ends at entry %d, and the log begins behind entry %d: those between are lost", at.Index, h.Start.Index)
	case at.Index > h.Last:
		c.add(Fault, paths.Log, "put the whole log back; else "+remedyReplace,
			"the database holds entries up to %d, and the log ends at %d: acknowledged entries are missing", at.Index, h.Last)
	default:
		if term, ok := h.Term(at.Index); ok && at.Term != 0 && at.Index > 0 && term != at.Term {
			c.add(Fault, paths.Database, remedyReplace,
				"it says that entry %d is of term %d, and in the log it is of term %d: they are not of one member", at.Index, at.Term, term)
		}
	}
	if at.Index > 0 && len(c.members) > 0 && !slices.ContainsFunc(c.members, func(m member.Member) bool { return uint64(m.ID) == h.Identity.Member }) {
		c.add(Doubt, paths.Database, "if it was removed from its cluster, remove its data; else see whether log and database are of one member",
			"member %s, whose log it is, is not among the members of the cluster", member.ID(h.Identity.Member))
	}
}

// around names what lies beside log and database.
func (c *checker) around(paths bootstrap.Paths) {
	for pattern, what := range map[string]string{
		filepath.Join(filepath.Dir(paths.Database), "tmp*"):      "a file that was not finished; the next start removes it",
		paths.Database + ".tmp.*":                                "the rest of a defragmentation; the next start removes it",
		filepath.Join(paths.Log, "*.broken"):                     "a copy of the log from before a repair; remove it when nobody wants to look into it any more",
		filepath.Join(filepath.Dir(paths.Database), "*.snap.db"): "a database that a leader has sent; it takes the place of the database, or the next start removes it",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // the pattern is wrong: a directory has such a name
		}
		for _, path := range found {
			c.add(Remark, path, "", "%s", what)
		}
	}
	c.snaps(filepath.Dir(paths.Database))
	slices.SortStableFunc(c.Findings, func(a, b Finding) int { return order(a.Weight) - order(b.Weight) })
}

// snaps checks the .snap files, which only others read.
func (c *checker) snaps(dir string) {
	found, err := filepath.Glob(filepath.Join(dir, "*.snap"))
	if err != nil {
		return // the pattern is wrong: a directory has such a name
	}
	for _, path := range found {
		if err := wal.CheckSnap(path); err != nil {
			c.add(Doubt, path, "remove it; kvd does not need it, etcd 3.6 would, and the next snapshot of the log writes another", "%v", err)
		}
	}
}

func order(w Weight) int { return slices.Index([]Weight{Fault, Doubt, Remark}, w) }

// reasonOf is what a damaged database suffers from, without the advice.
func reasonOf(err error) string {
	if damage, ok := errors.AsType[*store.CorruptError](err); ok {
		return damage.Reason
	}
	return err.Error()
}
