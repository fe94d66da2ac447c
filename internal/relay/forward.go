package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// errItself is that an endpoint leads back to the relay.
var errItself = errors.New("it leads back to this gateway")

// keepAlive finds peers that are gone without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}

// serve passes one client's connection on.
func (r *Relay) serve(ctx context.Context, client *net.TCPConn) {
	if !r.hold(client) {
		return
	}
	defer r.release(client)
	_ = client.SetKeepAliveConfig(keepAlive) // without, it only lasts longer
	member := r.reach(ctx)
	if member == nil {
		return
	}
	if !r.hold(member) {
		return
	}
	defer r.release(member)
	join(client, member)
}

// reach connects to the endpoint that is due, or to the next that answers. If all
// have failed, those that were given up are tried, too.
func (r *Relay) reach(ctx context.Context) *net.TCPConn {
	var tried []*target
	for {
		t := r.targets.pick(tried)
		if t == nil {
			if ctx.Err() == nil {
				r.log.Warn("a client is turned away: no endpoint can be reached", "endpoints", len(tried))
			}
			return nil
		}
		conn, err := r.connect(ctx, t)
		if err == nil {
			r.activated(t)
			return conn
		}
		if ctx.Err() != nil {
			return nil
		}
		r.failed(t, err)
		tried = append(tried, t)
	}
}

// connect connects to an endpoint, which is checked first if it was not before.
func (r *Relay) connect(ctx context.Context, t *target) (*net.TCPConn, error) {
	if t.verify && !r.targets.live(t) {
		if err := r.check(ctx, t); err != nil {
			return nil, err
		}
	}
	return r.dial(ctx, t.address())
}

// dial connects to an address, unless it is the relay's own: what a name leads to
// may change at any time, so each connection is looked at.
func (r *Relay) dial(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: r.o.DialTimeout, KeepAliveConfig: keepAlive, Control: func(_, address string, _ syscall.RawConn) error {
		if at, err := netip.ParseAddrPort(address); err == nil && r.isItself(at) {
			return errItself
		}
		return nil
	}}
	d.Resolver, _ = r.resolver.(*net.Resolver) // one in memory knows names for the other questions only
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// isItself reports whether a connection to an address would reach this relay.
func (r *Relay) isItself(at netip.AddrPort) bool {
	if at.Port() != r.own.Port() {
		return false
	}
	ip, own := at.Addr().Unmap().WithZone(""), r.own.Addr().Unmap().WithZone("")
	if ip == own || ip.IsUnspecified() {
		return true
	}
	if !own.IsUnspecified() {
		return false
	}
	return ip.IsLoopback() || isLocal(ip)
}

// isLocal reports whether an address is this host's.
func isLocal(ip netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(all, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == ip
	})
}

// notItself refuses endpoints that lead back here.
func (r *Relay) notItself(ctx context.Context, found []*target) error {
	for _, t := range found {
		for _, at := range r.addressesOf(ctx, t) {
			if r.isItself(at) {
				return fmt.Errorf("endpoint %s is %s, where this gateway listens (%s): every connection would come back to it; name members only", t.address(), at, r.own)
			}
		}
	}
	return nil
}

// addressesOf are where a target leads to now. A name that is unknown now is found
// out about when it is dialled.
func (r *Relay) addressesOf(ctx context.Context, t *target) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, r.o.DialTimeout)
	defer cancel()
	ips, err := r.resolver.LookupNetIP(ctx, "ip", t.host)
	if err != nil {
		return nil
	}
	var all []netip.AddrPort
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), t.port))
	}
	return all
}

// join passes bytes both ways until both have ended, or one has failed. An end of
// one direction is passed on as such: the other may go on.
func join(a, b *net.TCPConn) {
	var both sync.WaitGroup
	pass := func(to, from *net.TCPConn) {
		if _, err := io.Copy(to, from); err != nil || to.CloseWrite() != nil {
			a.Close()
			b.Close()
		}
	}
	both.Go(func() { pass(a, b) })
	pass(b, a)
	both.Wait()
}
