package sd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// JournalSocket is where journald takes records in its native protocol.
	JournalSocket = "/run/systemd/journal/socket"
	// MessageIDKey is the attribute whose value becomes MESSAGE_ID: 32 hex
	// digits that name a kind of event for catalogs and alerts.
	MessageIDKey = "message_id"
	// Identifier is the SYSLOG_IDENTIFIER of this product.
	Identifier = "kvd"

	// sendLimit bounds how long a log call may wait for a journal that does
	// not read. After it the record is dropped, and counted in the next one.
	sendLimit = 100 * time.Millisecond
)

// Journal is a slog.Handler that writes records to journald: the attributes
// as fields of their own, and once more behind the message, because that is
// the only part journalctl shows by default. Safe for many goroutines.
type Journal struct {
	line  *line
	level slog.Leveler
	// What WithAttrs and WithGroup gathered; never changed, only replaced.
	fields []byte // in the journal's format
	text   []byte // as shown behind the message
	group  string // prefix of field names, "A_B_"
}

// line is the connection, shared by a Journal and what was derived from it.
type line struct {
	socket  string
	mu      sync.Mutex // guards conn
	conn    *net.UnixConn
	dropped atomic.Uint64 // records lost since one last went through
	about   atomic.Pointer[About]
}

// About gives the fields that every record carries besides its own, by name in
// the journal's spelling. It is called for each record, by any goroutine, and
// must not log.
type About func(field func(name, value string))

// Describe sets what every record carries from now on, also those of handlers
// derived from j. Fields that a record has itself stay as they are, and the
// message does not repeat the others.
func (j *Journal) Describe(about About) { j.line.about.Store(&about) }

// NewJournal connects to the journal. An empty socket means JournalSocket.
func NewJournal(socket string, level slog.Leveler) (*Journal, error) {
	if socket == "" {
		socket = JournalSocket
	}
	j := &Journal{line: &line{socket: socket}, level: level}
	j.line.mu.Lock()
	defer j.line.mu.Unlock()
	if err := j.line.dialLocked(); err != nil {
		return nil, fmt.Errorf("journal %s: %w", socket, err)
	}
	return j, nil
}

// Close ends the connection; records that come later are lost.
func (j *Journal) Close() error {
	j.line.mu.Lock()
	defer j.line.mu.Unlock()
	if j.line.conn == nil {
		return nil
	}
	return j.line.conn.Close()
}

// Enabled implements slog.Handler.
func (j *Journal) Enabled(_ context.Context, level slog.Level) bool {
	return level >= j.level.Level()
}

// WithAttrs implements slog.Handler.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	r := record{fields: append([]byte(nil), j.fields...), text: append([]byte(nil), j.text...)}
	for _, a := range attrs {
		r.attr(j.group, a)
	}
	derived := *j
	derived.fields, derived.text = r.fields, r.text
	return &derived
}

// WithGroup implements slog.Handler.
func (j *Journal) WithGroup(name string) slog.Handler {
	if name == "" {
		return j
	}
	derived := *j
	derived.group += name + "."
	return &derived
}

// Handle implements slog.Handler.
func (j *Journal) Handle(_ context.Context, in slog.Record) error {
	r := records.Get().(*record)
	defer records.Put(r)
	r.fields = append(r.fields[:0], j.fields...)
	r.text = append(append(r.text[:0], in.Message...), j.text...)
	in.Attrs(func(a slog.Attr) bool {
		r.attr(j.group, a)
		return true
	})
	if about := j.line.about.Load(); about != nil {
		(*about)(func(name, value string) {
			if !r.has(name) {
				r.field(name, value)
			}
		})
	}
	r.field("MESSAGE", string(r.text))
	r.field("PRIORITY", priority(in.Level))
	r.field("SYSLOG_IDENTIFIER", Identifier)
	if in.PC != 0 {
		frame, _ := runtime.CallersFrames([]uintptr{in.PC}).Next()
		r.field("CODE_FILE", frame.File)
		r.field("CODE_LINE", fmt.Sprint(frame.Line))
		r.field("CODE_FUNC", frame.Function)
	}
	return j.line.send(r)
}

// send writes one record, once: again only if the connection was found to be
// stale, which says that the record cannot have arrived.
func (l *line) send(r *record) error {
	lost := l.dropped.Load()
	if lost > 0 {
		r.field("KVD_DROPPED", fmt.Sprint(lost))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.writeLocked(r.fields)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTCONN) {
		if err = l.dialLocked(); err == nil {
			err = l.writeLocked(r.fields)
		}
	}
	if err != nil {
		l.dropped.Add(1)
		return fmt.Errorf("journal %s: %w", l.socket, err)
	}
	l.dropped.Add(-lost)
	return nil
}

// dialLocked replaces the connection. A connected socket, and not one that
// names the journal with each datagram: only a connected one tells the poller
// when a journal that was busy reads again.
func (l *line) dialLocked() error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: l.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	if l.conn != nil {
		l.conn.Close() // it is of no more use
	}
	l.conn = conn
	return nil
}

func (l *line) writeLocked(data []byte) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	_, err := l.conn.Write(data)
	if errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.ENOBUFS) {
		return l.writeLargeLocked(data)
	}
	return err
}

// writeLargeLocked passes a record that is too large for a datagram as a
// sealed file in memory, as the protocol asks.
func (l *line) writeLargeLocked(data []byte) error {
	fd, err := unix.MemfdCreate("kvd-journal", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "kvd-journal")
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return l.passLocked(unix.UnixRights(int(file.Fd())))
}

// passLocked sends control data alone. By hand, because package net refuses
// control data on a connected datagram socket.
func (l *line) passLocked(rights []byte) error {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendLimit)); err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), nil, rights, nil, 0)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err == nil {
		err = os.NewSyscallError("sendmsg", sent)
	}
	return err
}

// priority is the syslog priority of a level.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError+4:
		return "2" // critical
	case level >= slog.LevelError:
		return "3"
	case level >= slog.LevelWarn:
		return "4"
	case level > slog.LevelInfo:
		return "5" // notice
	case level >= slog.LevelInfo:
		return "6"
	default:
		return "7"
	}
}

// UnderJournal says whether standard error goes to the journal, so that
// records may be sent to it natively instead.
func UnderJournal() bool {
	var device, inode uint64
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &device, &inode); err != nil {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(syscall.Stderr, &stat); err != nil {
		return false
	}
	return stat.Dev == device && stat.Ino == inode
}
