package robust

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// leads makes a member the leader, or another one if it is not to be.
func (c *cluster) leads(i int, yes bool) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("member %d leads: %t", i, yes), func(ctx context.Context) error {
		leader := c.leader()
		if (leader == i) == yes {
			return nil
		}
		to := i
		if !yes {
			to = c.others(i)[0]
		}
		s, err := c.status(ctx, to)
		if err != nil {
			return err
		}
		conn := c.dial(leader)
		defer conn.Close()
		if err := done(pb.NewMaintenanceClient(conn).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: s.Header.MemberId})); err != nil {
			return err
		}
		return errors.New("the leader was asked to go")
	})
}

// A disk is a file system of a member's own that can be broken.
type disk struct {
	dir   string
	smash func() // from now on writes of new blocks fail
	mend  func() // as if nothing had been; nobody has files open
	says  []string
}

// A member whose disk fails must stop: it cannot know what it has. The others
// go on, whoever led, and it comes back when the disk does.
func TestMemberWhoseDiskFailsIsSurvived(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) disk{
		"it is full":    fullDisk,
		"a fsync fails": failingDisk,
	} {
		for _, leads := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, leader %t", name, leads), func(t *testing.T) {
				t.Parallel()
				d := make(t)
				c := newCluster(t, plan{size: 3, place: func(i int, o *oracle.Options) {
					if i == 0 {
						o.DataDir = filepath.Join(d.dir, "data")
					}
				}})
				l := c.load()
				l.moves(0, 1, 2)
				c.leads(0, leads)
				d.smash()
				c.stumbles(0, d.says)
				l.moves(1, 2)
				d.mend()
				c.launch(0)
				l.moves(0, 1, 2)
				l.finish()
			})
		}
	}
}

// stumbles waits until a member has ended by itself, which must be a failure
// and said in words.
func (c *cluster) stumbles(i int, says []string) {
	c.t.Helper()
	m := c.members[i].Member
	exit, err := m.Wait(healsIn)
	if err != nil {
		c.t.Fatal(err)
	}
	c.kill(i)
	if exit.InOrder() {
		c.t.Errorf("member %d ended with %s on a broken disk", i, exit)
	}
	c.t.Logf("member %d: %.1000s", i, lastLines(m.Log(), 2))
	said := false
	for _, word := range says {
		said = said || strings.Contains(m.Log(), word)
	}
	if !said {
		c.t.Errorf("the log of member %d says none of %q", i, says)
	}
	if c.bin.Name == "kvd" {
		noTrace(c.t, m)
	}
}

// fullDisk is one on which no byte is left.
func fullDisk(t *testing.T) disk {
	dir, _ := smallDisk(t, "200m")
	ballast := filepath.Join(dir, "ballast")
	return disk{
		dir:   dir,
		smash: func() { stuff(t, ballast) },
		mend: func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		},
		says: []string{syscall.ENOSPC.Error()},
	}
}

// failingDisk is one whose fsync fails, as a broken device makes it: an ext4
// on a loop device, whose image cannot get the blocks that it needs. Writes go
// to the page cache as ever, and the error comes when they are to be kept.
func failingDisk(t *testing.T) disk {
	dir, image := loopDisk(t)
	ballast := filepath.Join(filepath.Dir(image), "ballast")
	return disk{
		dir:   dir,
		smash: func() { stuff(t, ballast) },
		mend: func() {
			if err := errors.Join(os.Remove(ballast), run("umount", dir)); err != nil {
				t.Fatal(err)
			}
			if err := run("e2fsck", "-fy", image); err != nil {
				t.Log(err) // it says 1 when it had to repair something
			}
			if err := run("mount", "-o", "loop", image, dir); err != nil {
				t.Fatal(err)
			}
		},
		says: []string{syscall.EIO.Error(), syscall.EROFS.Error(), syscall.ENOSPC.Error()}, // as the kernel passes it on
	}
}

// A leader whose disk does not answer any more gives way to one whose disk
// does, and follows when its own is back. The file system is frozen: what is
// written to it waits.
func TestLeaderWhoseDiskStallsGivesWay(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("fsfreeze"); err != nil {
		t.Skipf("a disk that stalls: %v (Debian: util-linux)", err)
	}
	dir, _ := loopDisk(t)
	c := newCluster(t, plan{size: 3, place: func(i int, o *oracle.Options) {
		if i == 0 {
			o.DataDir = filepath.Join(dir, "data")
		}
	}})
	l := c.load()
	for range rounds(t) {
		l.moves(0, 1, 2)
		c.leads(0, true)
		if err := run("fsfreeze", "-f", dir); err != nil {
			t.Fatal(err)
		}
		thaw := sync.OnceFunc(func() {
			if err := run("fsfreeze", "-u", dir); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(thaw) // a process that waits for it cannot even be killed
		l.moves(1, 2)
		c.leader(1, 2)
		l.lasts(2 * election)
		thaw()
	}
	l.moves(0, 1, 2)
	l.finish()
}

// run runs a program to its end.
func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// loopDisk mounts an ext4 whose image lies in a small file system of its own.
func loopDisk(t *testing.T) (dir, image string) {
	t.Helper()
	for _, tool := range []string{"mkfs.ext4", "e2fsck", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("a file system on a loop device: %v (Debian: e2fsprogs, mount)", err)
		}
	}
	below, _ := smallDisk(t, "100m")
	dir, image = t.TempDir(), filepath.Join(below, "image")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(image, nil, 0o600))
	must(os.Truncate(image, 512<<20))
	must(run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1", image))
	if err := run("mount", "-o", "loop", image, dir); err != nil {
		t.Skipf("loop devices cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := run("umount", dir); err != nil {
			t.Error(err)
		}
	})
	return dir, image
}

// stuff writes a file until the file system has no room any more.
func stuff(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; { // to the last byte
		_, err := f.Write(make([]byte, size))
		if errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
