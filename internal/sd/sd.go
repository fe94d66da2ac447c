// Package sd is what systemd tells this process and what it tells systemd:
// sockets, readiness, the watchdog, credentials, directories and journal
// records. It is not a client of systemd's bus and starts no goroutine. It
// reads the environment when asked and keeps nothing global; outside of
// systemd every answer is "none" and every notice goes nowhere.
package sd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Notifier tells the service manager how the process is. The zero value
// tells nobody; that is what a process outside of systemd uses.
type Notifier struct {
	socket string // path, or "@name" in the abstract namespace
}

// NewNotifier takes the notification socket of this process from the
// environment.
func NewNotifier() Notifier {
	return Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
}

// Listening says whether a service manager wants notices.
func (n Notifier) Listening() bool { return n.socket != "" }

// Ready says that start-up, or a reload, is over.
func (n Notifier) Ready(status string) error {
	return n.send("READY=1", statusLine(status))
}

// Status tells in one line what the process is doing.
func (n Notifier) Status(status string) error {
	return n.send(statusLine(status))
}

// Reloading says that the configuration is being read again; Ready ends it.
// systemd orders the two by the time stamp, so it is taken here.
func (n Notifier) Reloading(status string) error {
	return n.send("RELOADING=1", strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"), statusLine(status))
}

// Stopping says that the process is about to end.
func (n Notifier) Stopping(status string) error {
	return n.send("STOPPING=1", statusLine(status))
}

// Extend asks for at least d more until the current start, stop or
// run-time limit strikes. To be repeated while progress is made.
func (n Notifier) Extend(d time.Duration) error {
	return n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

// Alive resets the watchdog.
func (n Notifier) Alive() error { return n.send("WATCHDOG=1") }

// send delivers one notice. It never waits: the socket is a datagram socket
// that the service manager keeps open.
func (n Notifier) send(lines ...string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify %s: %w", n.socket, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(lines, "\n"))); err != nil {
		return fmt.Errorf("notify %s: %w", n.socket, err)
	}
	return nil
}

// statusLine keeps a status on one line: a newline in it would begin another
// assignment.
func statusLine(status string) string {
	return "STATUS=" + strings.ReplaceAll(status, "\n", " ")
}

// Watchdog returns how long systemd waits for a sign of life before it kills
// this process; 0 when it does not watch. Send Alive at half of it.
func Watchdog() (time.Duration, error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("watchdog: %w", err)
	}
	return interval, nil
}
