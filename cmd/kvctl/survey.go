package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// survey is what all members say of themselves at about one time.
type survey struct {
	cluster   uint64
	members   []*surveyed // in the order of their names
	alarms    []*pb.AlarmMember
	alarmsErr error
	auth      *pb.AuthStatusResponse // nil: not told
	authErr   error
}

// surveyed is one member, as it answered or did not.
type surveyed struct {
	*pb.Member
	endpoint string             // that answered, or where it should have
	status   *pb.StatusResponse // nil: err says why
	err      error
	took     time.Duration
	expiry   time.Time // of the certificate it shows to clients; zero: it shows none
	peers    time.Time // the same for the other members
}

func (m *surveyed) name() string { return cmp.Or(m.GetName(), "(unstarted)") }
func (m *surveyed) up() bool     { return m.status != nil }
func (m *surveyed) leads() bool {
	return m.up() && m.status.GetLeader() == m.status.GetHeader().GetMemberId()
}

// answered is what one endpoint said.
type answered struct {
	endpoint string
	status   *pb.StatusResponse
	err      error
	took     time.Duration
}

// survey asks whoever answers for the member list, and then every member at
// every address that it, or the command line, gives. It fails only if nobody
// knows the list.
func (s *session) survey(ctx context.Context) (*survey, error) {
	c, err := s.dial(s.log.Named("etcd-client"), s.spec.Endpoints...)
	if err != nil {
		return nil, err
	}
	defer hangUp(c)
	listing, cancel := context.WithTimeout(ctx, s.globals.commandTimeout)
	defer cancel()
	list, err := c.MemberList(listing, clientv3.WithSerializable()) // without a leader, too
	if err != nil {
		return nil, s.refused(exitError, err)
	}
	v := &survey{cluster: list.Header.GetClusterId()}
	endpoints := slices.Clone(s.spec.Endpoints)
	for _, m := range list.Members {
		v.members = append(v.members, &surveyed{Member: m})
		endpoints = append(endpoints, m.GetClientURLs()...)
	}
	slices.SortFunc(v.members, func(a, b *surveyed) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetID(), b.GetID()))
	})
	slices.Sort(endpoints)
	asked, cancel := context.WithTimeout(ctx, s.globals.commandTimeout)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() { v.alarms, v.alarmsErr = alarmsOf(asked, c) })
	asking.Go(func() {
		resp, err := c.AuthStatus(asked)
		v.auth, v.authErr = (*pb.AuthStatusResponse)(resp), err
	})
	answers := s.statuses(asked, slices.Compact(endpoints))
	for _, m := range v.members {
		m.choose(answers)
		asking.Go(func() { m.expiry = s.certificateEnd(asked, m.endpoint) })
		if urls := m.GetPeerURLs(); len(urls) > 0 {
			asking.Go(func() { m.peers = s.certificateEnd(asked, urls[0]) })
		}
	}
	asking.Wait()
	return v, nil
}

func alarmsOf(ctx context.Context, c *clientv3.Client) ([]*pb.AlarmMember, error) {
	resp, err := c.AlarmList(ctx)
	if err != nil {
		return nil, err
	}
	return resp.Alarms, nil
}

// statuses asks all endpoints at once.
func (s *session) statuses(ctx context.Context, endpoints []string) []answered {
	answers := make([]answered, len(endpoints))
	var asking sync.WaitGroup
	for i, e := range endpoints {
		asking.Go(func() {
			a := answered{endpoint: e}
			defer func() { answers[i] = a }()
			if a.err = s.reach(ctx, e); a.err != nil {
				return
			}
			c, err := s.dial(s.log.Named("client"), e)
			if err != nil {
				a.err = err
				return
			}
			defer hangUp(c)
			begun := time.Now()
			resp, err := c.Status(ctx, e)
			a.status, a.err, a.took = (*pb.StatusResponse)(resp), err, time.Since(begun)
		})
	}
	asking.Wait()
	return answers
}

// choose takes what m itself answered: at an address that it advertises, if it
// can be reached there.
func (m *surveyed) choose(answers []answered) {
	own := func(a answered) bool { return slices.Contains(m.GetClientURLs(), a.endpoint) }
	for _, a := range answers {
		switch {
		case a.err != nil:
			if m.status == nil && own(a) {
				m.endpoint, m.err = a.endpoint, a.err
			}
		case a.status.GetHeader().GetMemberId() == m.GetID() && (m.status == nil || own(a)):
			m.endpoint, m.status, m.took, m.err = a.endpoint, a.status, a.took, nil
		}
	}
	if m.status == nil && m.err == nil {
		m.err = errors.New("not started yet: it has no client URL")
	}
}

// leader is who leads, as most recent in term; nil if nobody says so.
func (v *survey) leader() (found *surveyed) {
	for _, m := range v.members {
		if m.leads() && (found == nil || m.status.GetRaftTerm() > found.status.GetRaftTerm()) {
			found = m
		}
	}
	return found
}

// voters says how many members vote, and how many of them answer.
func (v *survey) voters() (all, up int) {
	for _, m := range v.members {
		if !m.GetIsLearner() {
			all++
			if m.up() {
				up++
			}
		}
	}
	return all, up
}

// lag is how many entries m still has to apply of those that the leader has.
func (v *survey) lag(m *surveyed) (entries uint64, known bool) {
	leader := v.leader()
	if leader == nil || !m.up() {
		return 0, false
	}
	head := max(leader.status.GetRaftIndex(), m.status.GetRaftIndex())
	return head - min(head, m.status.GetRaftAppliedIndex()), true
}

// revision is the newest that any member has.
func (v *survey) revision() (newest int64) {
	for _, m := range v.members {
		newest = max(newest, m.status.GetHeader().GetRevision())
	}
	return newest
}

// certificateEnd is until when the certificate at an address is good; zero if
// there is none to see. It looks only: nothing is sent, and the certificate
// need not be one that we trust.
func (s *session) certificateEnd(ctx context.Context, address string) (end time.Time) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" {
		return time.Time{}
	}
	dialer := &tls.Dialer{Config: &tls.Config{
		ServerName:         u.Hostname(),
		InsecureSkipVerify: true, // an expired certificate is what we look for
		VerifyConnection: func(state tls.ConnectionState) error {
			for i, c := range state.PeerCertificates {
				if i == 0 || c.NotAfter.Before(end) {
					end = c.NotAfter
				}
			}
			return nil
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "2379")))
	if err == nil {
		conn.Close()
	} // else it wants a certificate of ours, which comes after its own
	return end
}

// ownCertificateEnd is until when the certificate in our file is good.
func ownCertificateEnd(file string) (time.Time, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return time.Time{}, fmt.Errorf("%s: no certificate in PEM", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", file, err)
	}
	return c.NotAfter, nil
}

// reason is err in the fewest words that say it.
func reason(err error) string {
	text := err.Error()
	for _, known := range []string{"connection refused", "no such host", "no route to host", "i/o timeout", "certificate signed by unknown authority", "certificate has expired"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer"
	}
	return text
}
