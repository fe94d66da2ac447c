package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// crew is the services that run, in the order they were started. They are
// stopped one after the other from the end, so that none loses what it needs.
type crew struct {
	services []*service
	failed   chan error // the first failure; buffered
	stopping atomic.Bool
}

type service struct {
	name   string
	cancel context.CancelFunc
	ended  chan struct{}
}

func newCrew() *crew { return &crew{failed: make(chan error, 1)} }

// start runs a service until stop. If it returns an error, failed has it.
func (c *crew) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &service{name: name, cancel: cancel, ended: make(chan struct{})}
	c.services = append(c.services, s)
	go func() {
		defer close(s.ended)
		err := run(ctx)
		if err == nil || c.stopping.Load() && errors.Is(err, net.ErrClosed) {
			return // a port that another service has closed is part of stopping
		}
		select {
		case c.failed <- fmt.Errorf("%s: %w", name, err):
		default: // the first one counts
		}
	}()
}

// stop ends every service and waits for it, the youngest first; stopping is
// told each name.
func (c *crew) stop(stopping func(name string)) {
	c.stopping.Store(true)
	for i := len(c.services) - 1; i >= 0; i-- {
		s := c.services[i]
		stopping(s.name)
		s.cancel()
		<-s.ended
	}
	c.services = nil
}
