package listen

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// Follow keeps the credentials those that are on disk, until ctx ends. It looks
// at the files at each interval and reads them when they have changed and then
// stood still for one: certificate and key are seldom written at one moment.
// Told hears how each reading went; the same files are read once only. After a
// fault what was in service stays so, until the files have changed again.
//
// It looks rather than listens: a change of what a symbolic link on the way
// stands for, which is how Kubernetes and systemd exchange credentials, is seen
// this way, and on every file system. A look costs some microseconds.
func (c *Credentials) Follow(ctx context.Context, every time.Duration, told func(error)) error {
	look := time.NewTicker(every)
	defer look.Stop()
	var last string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		if read, err := c.follow(&last); read {
			told(err)
		}
	}
}

// follow reads the files if they are others than those that were read, and the
// same as at the last look.
func (c *Credentials) follow(last *string) (read bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := stamp(c.files)
	still := is == *last
	*last = is
	if is == c.tried || !still {
		return false, nil
	}
	return true, c.replaceLocked(c.files)
}

// stamp is a text that changes when one of the files does.
func stamp(f Files) string {
	var b strings.Builder
	for _, file := range []string{f.Cert, f.Key, f.ClientCert, f.ClientKey, f.TrustedCA, f.CRL} {
		if file == "" {
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", file, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", file, mark(info))
	}
	return b.String()
}

// mark tells two states of a file apart, also where its time of modification is
// that of a template or too coarse.
func mark(info fs.FileInfo) string {
	text := fmt.Sprint(info.Size(), info.ModTime().UnixNano(), info.Mode())
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		text += fmt.Sprint(" ", s.Dev, s.Ino, s.Ctim.Nano())
	}
	return text
}
