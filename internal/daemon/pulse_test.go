package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"time"
)

// patient moves when it is let.
type patient struct{ moves chan error }

func (p patient) Pulse(ctx context.Context) error {
	select {
	case err := <-p.moves:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestTheWatchdogHearsOnlyOfAMemberThatMoves(t *testing.T) {
	manager, notifier := newManager(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int((100 * time.Millisecond).Microseconds())))
	member := patient{make(chan error, 1)}
	p := newPulse(member, notifier, slog.New(slog.DiscardHandler))
	if p.due == nil {
		t.Fatal("nobody watches")
	}
	<-p.due
	member.moves <- nil
	p.beat()
	manager.expect(t, "WATCHDOG=1", "")
	p.beat() // it hangs: this one and the next ask and are not answered
	p.beat()
	waitFor(t, func() bool { return len(p.asking) == 0 }) // the limit is half the interval
	member.moves <- errors.New("stopped")
	p.beat()
	p.stop()
	must(t, notifier.Status("end"))
	manager.expect(t, "STATUS=end", "")
	beats := 0
	for _, text := range manager.heard {
		if text == "WATCHDOG=1" {
			beats++
		}
	}
	if beats != 1 {
		t.Errorf("%d signs of life, want that of the one time it moved: %q", beats, manager.heard)
	}
}

func TestAStopDoesNotWaitForAnAnswer(t *testing.T) {
	_, notifier := newManager(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int(time.Hour.Microseconds())))
	p := newPulse(patient{make(chan error)}, notifier, slog.New(slog.DiscardHandler))
	p.beat()
	p.stop()
}
