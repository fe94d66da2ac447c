package bootstrap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"kvd/internal/member"
	"kvd/internal/store"
	"kvd/internal/wal"
)

// rejoinFile lies in the data directory, beside member/, which it outlives.
const rejoinFile = "kvd-rejoin.json"

// Rejoin says how the next start comes to a member where there is none: it
// joins a cluster that knows it already, whatever the options say of a first
// start. It stays until the member has a vote.
type Rejoin struct {
	Member  member.ID // as which the cluster knows it
	Name    string
	Cluster []Seed // the cluster's members, this one included
	Promote bool   // it was added as a learner, and is to get a vote
}

// rejoinRow is how a Rejoin is written.
type rejoinRow struct {
	Note    string     `json:"note"`
	Member  string     `json:"member"` // hex
	Name    string     `json:"name"`
	Cluster []seedsRow `json:"cluster"`
	Promote bool       `json:"promote"`
}

type seedsRow struct {
	Name     string   `json:"name"`
	PeerURLs []string `json:"peer-urls"`
}

const rejoinNote = "Written by 'kvd member rejoin'. The next start joins this cluster; kvd removes the file when it has a vote there."

// comeToBe is birth, by what an earlier rejoin has left word of, if one has.
func (o *Options) comeToBe(ctx context.Context) (*birth, error) {
	r, err := ReadRejoin(o.DataDir)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return o.birth(ctx)
	}
	o.Logger.Info("rejoining the cluster, as 'kvd member rejoin' has prepared", "local-member-id", r.Member.String())
	o.Name, o.Cluster, o.Existing, o.SRV, o.Discovery = r.Name, r.Cluster, true, SRV{}, Discovery{}
	born, err := o.birth(ctx)
	if err == nil && born.self != r.Member {
		err = fmt.Errorf("%w: the cluster knows the member at this place as %s, and it was prepared as %s", ErrCluster, born.self, r.Member)
	}
	if err != nil {
		return nil, fmt.Errorf("rejoin the cluster (%s): %w; if its members have changed since, run 'kvd member rejoin' again",
			filepath.Join(o.DataDir, rejoinFile), err)
	}
	return born, nil
}

// ReadRejoin reads what was left for the next start; nil: nothing was.
func ReadRejoin(dataDir string) (*Rejoin, error) {
	path := filepath.Join(dataDir, rejoinFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how to rejoin the cluster: %w", err)
	}
	var row rejoinRow
	if err := json.Unmarshal(text, &row); err != nil {
		return nil, fmt.Errorf("%s cannot be read; run 'kvd member rejoin' again, or remove it: %w", path, err)
	}
	id, err := member.ParseID(row.Member)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := &Rejoin{Member: id, Name: row.Name, Promote: row.Promote}
	for _, s := range row.Cluster {
		r.Cluster = append(r.Cluster, Seed(s))
	}
	return r, nil
}

// Write leaves r for the next start, in one step and durably.
func (r *Rejoin) Write(dataDir string) error {
	row := rejoinRow{Note: rejoinNote, Member: r.Member.String(), Name: r.Name, Promote: r.Promote}
	for _, s := range r.Cluster {
		row.Cluster = append(row.Cluster, seedsRow(s))
	}
	text, err := json.MarshalIndent(row, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dataDir, rejoinFile)
	temp, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write how to rejoin the cluster: %w", err)
	}
	_, err = temp.Write(append(text, '\n'))
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = errors.Join(likeDir(path+".tmp", dataDir), os.Rename(path+".tmp", path), syncDir(dataDir))
	}
	if err != nil {
		return fmt.Errorf("write how to rejoin the cluster: %w", err)
	}
	return nil
}

// likeDir gives a file to the owner of a directory: who repairs a member may be
// root, and who reads the file is not.
func likeDir(path, dir string) error {
	var at unix.Stat_t
	if err := unix.Stat(dir, &at); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(at.Uid) == os.Geteuid() {
		return nil
	}
	return os.Chown(path, int(at.Uid), int(at.Gid))
}

// ForgetRejoin removes what was left, if anything was.
func ForgetRejoin(dataDir string) error {
	err := os.Remove(filepath.Join(dataDir, rejoinFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(dataDir)
}

// Remains are what a member that must be replaced has left: its directories,
// which nobody else uses as long as they are held, and what can still be read.
type Remains struct {
	ID      member.ID        // 0: cannot be read
	Cluster member.ClusterID // with ID
	Members []member.Member  // as its database last knew them
	Faults  []error          // why some of it cannot be read
	Paths   []string         // the directories that it is made of; none: it is gone
	locks   []*os.File
}

// Inspect looks at the member in the data directory and keeps other processes
// out until Release. It changes nothing. If a process uses the directory, the
// error is ErrHeld and says which.
func Inspect(o Options) (_ *Remains, err error) {
	o.complete()
	kind, err := Identify(o.DataDir)
	if err != nil {
		return nil, err
	}
	if kind == Proxy {
		return nil, fmt.Errorf("%s: it holds the state of a proxy: %w", o.DataDir, ErrNotAMember)
	}
	r := &Remains{}
	defer func() {
		if err != nil {
			r.Release()
		}
	}()
	for _, path := range []string{o.walDir(), o.memberDir()} { // the log names the member, and goes first
		_, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist) || path == o.usualWAL():
		case err != nil:
			return nil, fmt.Errorf("look for the member: %w", err)
		default:
			r.Paths = append(r.Paths, path)
		}
	}
	if err := r.keepOut(filepath.Join(o.own(), "lock"), o.storePath()); err != nil {
		return nil, err
	}
	if id, err := wal.IdentityOf(o.walDir()); err == nil {
		r.ID, r.Cluster = member.ID(id.Member), member.ClusterID(id.Cluster)
	} else if len(r.Paths) > 0 {
		r.Faults = append(r.Faults, fmt.Errorf("whose log it is: %w", err))
	}
	if r.Members, err = lastMembers(o.storePath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.Faults = append(r.Faults, fmt.Errorf("who is in the cluster: %w", err))
	}
	return r, nil
}

// keepOut takes the locks that a running member holds: kvd's own and that of
// the database, which etcd has, too. It makes no file.
func (r *Remains) keepOut(paths ...string) error {
	for _, path := range paths {
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("lock the data directory: %w", err)
		}
		r.locks = append(r.locks, file)
		// Shared, so that the database can be read meanwhile.
		if err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return fmt.Errorf("lock the data directory %s: %w", path, err)
			}
			return fmt.Errorf("%w: %s holds %s; stop it first", ErrHeld, HolderOf(path), path)
		}
	}
	return nil
}

// lastMembers reads the members off a database that may be damaged.
func lastMembers(path string) (members []member.Member, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	file, err := store.Open(path, store.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	reader, err := file.Read()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	defer store.Catch(&err)
	book, err := member.Load(reader)
	if err != nil {
		return nil, err
	}
	return slices.Clone(book.View().Members()), nil
}

// AsidePrefix begins the names of directories that were set aside.
const AsidePrefix = "member.bad-"

// SetAside gives every directory a new name, which ends in the suffix. It may
// be repeated after it has failed.
func (r *Remains) SetAside(suffix string) (aside []string, err error) {
	for _, path := range r.Paths {
		to := path + suffix
		if _, err := os.Lstat(to); err == nil {
			return aside, fmt.Errorf("set the old data aside: %s is there already", to)
		}
		if err := errors.Join(os.Rename(path, to), syncDir(filepath.Dir(path))); err != nil {
			return aside, Explain(fmt.Errorf("set the old data aside: %w", err))
		}
		aside = append(aside, to)
	}
	return aside, nil
}

// Release lets other processes at the directories.
func (r *Remains) Release() {
	for _, file := range r.locks {
		file.Close() // it was only read
	}
	r.locks = nil
}
