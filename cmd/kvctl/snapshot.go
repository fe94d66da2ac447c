package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func (p *program) snapshotCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "snapshot <subcommand>",
		Aliases: []string{"s"},
		Short:   "Saves a member's database",
		GroupID: groupCluster,
	}
	group.AddCommand(&cobra.Command{
		Use:   "save <filename>",
		Short: "Saves a member's database to a file",
		Long: `Saves the database of the one member that --endpoints names, as it is at one
moment, to a file that etcd's own tools can read, too.

The file appears when it is complete, checked and on disk, not before; until
then the download is in <filename>.part. Without --command-timeout it may take
as long as it needs.`,
		Example: `  kvctl snapshot save /var/backups/kvd.db
  kvctl --endpoints=https://10.0.0.1:2379 --cacert=ca.crt --cert=me.crt --key=me.key snapshot save kvd.db`,
		Run: p.does(p.snapshotSave),
	})
	return group
}

func (p *program) snapshotSave(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return failf(exitBadArgs, "snapshot save expects one argument <filename>")
	}
	s, err := p.prepare(cmd)
	if err != nil {
		return err
	}
	if len(s.spec.Endpoints) != 1 {
		return failf(exitInterrupted, "snapshot must be requested to one selected node, not multiple %v", s.spec.Endpoints)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if cmd.Flags().Changed("command-timeout") {
		ctx, cancel = s.context()
	}
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) // leave no .part behind
	defer stop()

	c, err := s.dial(s.log.Named("client"), s.spec.Endpoints...)
	if err != nil {
		return err
	}
	defer hangUp(c)
	server, err := s.save(ctx, c, args[0])
	if err != nil {
		return s.refused(exitInterrupted, err)
	}
	if err := p.say("Snapshot saved at %s", args[0]); err != nil {
		return err
	}
	if server != "" {
		return p.say("Server version %s", server)
	}
	return nil
}

// save downloads to path.part and makes it path once all of it is on disk and
// has the checksum it should. It returns the server's storage version.
func (s *session) save(ctx context.Context, c *clientv3.Client, path string) (server string, err error) {
	part := path + ".part"
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", fmt.Errorf("could not open %s (%w)", part, err)
	}
	defer os.Remove(part)                  //nolint:errcheck // gone already if all went well
	defer f.Close()                        // an error that matters was seen by Sync
	if err := f.Chmod(0o600); err != nil { // it may have been left by an earlier run
		return "", fmt.Errorf("could not make %s private (%w)", part, err)
	}
	s.log.Info("created temporary db file", zap.String("path", part))

	begun := time.Now()
	expected := s.databaseBytes(ctx, c)
	resp, err := c.SnapshotWithVersion(ctx)
	if err != nil {
		return "", err
	}
	defer resp.Snapshot.Close()
	s.log.Info("fetching snapshot", zap.String("endpoint", s.spec.Endpoints[0]))

	sum := newTrailing()
	shown := s.bar("saving", expected, inBytes())
	size, err := io.Copy(io.MultiWriter(f, sum, shown), resp.Snapshot)
	shown.clear()
	if err != nil {
		return "", fmt.Errorf("could not write snapshot: %w", err)
	}
	if err := sum.check(size); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("could not fsync snapshot: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", fmt.Errorf("could not close file descriptor: %w", err)
	}
	s.log.Info("fetched snapshot",
		zap.String("endpoint", s.spec.Endpoints[0]),
		zap.String("size", humanize.Bytes(uint64(size))),
		zap.Duration("took", time.Since(begun)),
		zap.String("etcd-version", resp.Version),
	)
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("could not rename %s to %s (%w)", part, path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return "", fmt.Errorf("could not fsync the directory of %s: %w", path, err)
	}
	s.log.Info("saved", zap.String("path", path))
	return resp.Version, nil
}

// databaseBytes is how much the bar should expect; 0 if nobody looks or knows.
func (s *session) databaseBytes(ctx context.Context, c *clientv3.Client) int64 {
	if !s.terminal {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, s.globals.commandTimeout)
	defer cancel()
	status, err := c.Status(ctx, s.spec.Endpoints[0])
	if err != nil {
		return 0
	}
	return status.DbSize
}

// syncDir makes a rename in dir outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// trailing hashes what is written to it, but for the last 32 bytes: those are
// the hash the server sent after the database.
type trailing struct {
	hash hash.Hash
	last []byte // the newest bytes, at most sha256.Size
}

func newTrailing() *trailing { return &trailing{hash: sha256.New()} }

func (t *trailing) Write(b []byte) (int, error) {
	t.last = append(t.last, b...)
	if over := len(t.last) - sha256.Size; over > 0 {
		t.hash.Write(t.last[:over])
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return len(b), nil
}

// check says whether size bytes end in the hash of those before it. Pages of
// the database are multiples of 512 bytes, so without a hash the size is one.
func (t *trailing) check(size int64) error {
	if size%512 != sha256.Size {
		return fmt.Errorf("sha256 checksum not found [bytes: %d]", size)
	}
	if got := t.hash.Sum(nil); !bytes.Equal(got, t.last) {
		return fmt.Errorf("sha256 checksum mismatch: the server sent %x, what arrived has %x; nothing was saved, try again", t.last, got)
	}
	return nil
}
