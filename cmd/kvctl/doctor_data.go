package main

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The checks of the doctor that are about data, time and access.

func (e *examination) checkSpace() (all []finding) {
	fullest := 0.0
	for _, m := range e.members {
		s := m.status
		if !m.up() || s.GetDbSize() == 0 {
			continue
		}
		holes := float64(s.GetDbSize()-s.GetDbSizeInUse()) / float64(s.GetDbSize())
		if holes > holesWarning && s.GetDbSize() >= holesFrom {
			all = append(all, finding{
				warning, "", fmt.Sprintf("%.0f %% of %s's database file (%s) is holes", holes*100, m.name(), inBytes().text(s.GetDbSize())),
				"kvctl defrag --endpoints=" + m.endpoint + " gives the space back; etcd's members serve nothing meanwhile, the leader last",
			})
		}
		if s.GetDbSizeQuota() <= 0 {
			continue
		}
		full := float64(s.GetDbSize()) / float64(s.GetDbSizeQuota())
		fullest = max(fullest, full)
		severity := warning
		if full > quotaProblem {
			severity = problem
		}
		if full > quotaWarning {
			all = append(all, finding{
				severity, "", fmt.Sprintf("%s's database has %s of its quota of %s", m.name(), inBytes().text(s.GetDbSize()), inBytes().text(s.GetDbSizeQuota())),
				"find what is large (kvctl top), delete what is not needed, compact (kvctl compaction), defragment (kvctl defrag), or raise quota-backend-bytes: at the quota all writes are refused",
			})
		}
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", fmt.Sprintf("the fullest member has %.0f %% of its quota", fullest*100), ""})
	}
	return all
}

func (e *examination) checkCompaction() []finding {
	now := e.revision()
	for _, m := range e.members {
		h, ok := e.hashes[m.GetID()]
		if !ok || h.err != nil {
			continue
		}
		compacted := max(h.GetCompactRevision(), 0)
		if past := now - compacted; past > historyWarning {
			return []finding{{
				warning, "", fmt.Sprintf("%s revisions of the past are kept", humanize.Comma(past)),
				"set auto-compaction-mode and auto-compaction-retention, or compact now and then (Kubernetes' API server does): kvctl compaction <revision>",
			}}
		}
		return []finding{{fine, "", fmt.Sprintf("revisions from %s to %s are kept", humanize.Comma(max(compacted, 1)), humanize.Comma(now)), ""}}
	}
	return nil
}

func (e *examination) checkData() (all []finding) {
	groups := map[string][]string{} // members by what they say
	compared := 0
	for _, m := range e.members {
		h, ok := e.hashes[m.GetID()]
		switch {
		case !ok:
		case h.err != nil:
			all = append(all, finding{note, "", fmt.Sprintf("%s's data was not compared: %s", m.name(), reason(h.err)), e.instead(h.err)})
		default:
			compared++
			// A hash covers what lies after the compaction: only equal ones compare.
			key := fmt.Sprintf("%d/%d %d", h.GetHashRevision(), h.GetCompactRevision(), h.GetHash())
			groups[key] = append(groups[key], m.name())
		}
	}
	spans := map[string]int{}
	for key := range groups {
		span, _, _ := strings.Cut(key, " ")
		spans[span]++
	}
	for span, kinds := range spans {
		if kinds == 1 {
			continue
		}
		var words []string
		for key, names := range groups {
			if strings.HasPrefix(key, span+" ") {
				words = append(words, strings.Join(names, "+"))
			}
		}
		slices.Sort(words)
		return append(all, finding{
			problem, "", "the members' data differs: " + strings.Join(words, " against "),
			"take the majority for right; stop writing if there is none. Replace each that is alone: kvd member rejoin on its host",
		})
	}
	switch {
	case compared > 1 && len(spans) == 1:
		all = append(all, finding{fine, "", fmt.Sprintf("%d members have the same", compared), ""})
	case compared > 1:
		all = append(all, finding{note, "", "members were being compacted while they were compared", "run it again"})
	}
	return all
}

func (e *examination) checkLatency() (all []finding) {
	var most time.Duration
	for _, m := range e.members {
		r, ok := e.reads[m.GetID()]
		switch {
		case !ok:
		case r.err != nil:
			all = append(all, finding{problem, "", fmt.Sprintf("%s cannot read through the leader: %s", m.name(), reason(r.err)), "without a leader that a majority hears, nothing is served: " + e.instead(r.err)})
		case r.took > slowRead:
			all = append(all, finding{warning, "", fmt.Sprintf("a read through %s takes %s", m.name(), r.took.Round(time.Millisecond)), "look at the load of its host and at the network between members"})
		default:
			most = max(most, r.took)
		}
	}
	if len(all) == 0 && len(e.reads) > 0 {
		all = append(all, finding{fine, "", fmt.Sprintf("a read takes %s at most", most.Round(10*time.Microsecond)), ""})
	}
	return all
}

func (e *examination) checkCertificates() (all []finding) {
	seen := 0
	look := func(whose, remedy string, end time.Time) {
		if end.IsZero() {
			return
		}
		seen++
		left := end.Sub(e.now)
		switch {
		case left <= 0:
			all = append(all, finding{problem, "", fmt.Sprintf("%s has expired (%s)", whose, end.Format(time.DateOnly)), remedy})
		case left < expiresVerySoon:
			all = append(all, finding{problem, "", fmt.Sprintf("%s expires in %s", whose, remaining(end, e.now)), remedy})
		case left < expiresSoon:
			all = append(all, finding{warning, "", fmt.Sprintf("%s expires in %s", whose, remaining(end, e.now)), remedy})
		}
	}
	const renew = "put a new one in the same files: kvd takes it up by itself"
	for _, m := range e.members {
		look(m.name()+"'s certificate for clients", renew, m.expiry)
		look(m.name()+"'s certificate for members", renew, m.peers)
	}
	look("the certificate given with --cert", "get a new one from whoever runs the CA", e.own)
	if e.ownErr != nil {
		all = append(all, finding{warning, "", e.ownErr.Error(), "check --cert"})
	}
	if len(all) == 0 && seen > 0 {
		all = append(all, finding{fine, "", fmt.Sprintf("%s, none ends within 30 days", numbered(seen, "certificate")), ""})
	}
	return all
}

func (e *examination) checkAccess() (all []finding) {
	clear, clearPeers := map[bool]int{}, map[bool]int{}
	for _, m := range e.members {
		for _, u := range m.GetClientURLs() {
			host, secure := serves(u)
			clear[!secure && !loopback(host)]++
		}
		for _, u := range m.GetPeerURLs() {
			host, secure := serves(u)
			clearPeers[!secure && !loopback(host)]++
		}
	}
	switch {
	case status.Code(e.authErr) == codes.Unimplemented: // an older server
	case e.auth == nil:
		all = append(all, finding{note, "", "whether authentication is on is not told: " + reason(e.authErr), e.instead(e.authErr)})
	case !e.auth.GetEnabled() && clear[true] > 0:
		all = append(all, finding{warning, "", "authentication is off and clients connect without TLS: whoever reaches the port may read and change all", "serve clients by TLS with client certificates (client-cert-auth), or turn authentication on: kvctl user add root; kvctl auth enable"})
	case e.auth.GetEnabled() && clear[true] > 0:
		all = append(all, finding{warning, "", "clients connect without TLS: passwords and data can be read on the way", "set cert-file and key-file, and https:// in listen-client-urls and advertise-client-urls"})
	}
	if clearPeers[true] > 0 && len(e.members) > 1 {
		all = append(all, finding{warning, "", "members speak to each other without TLS: whoever reaches a peer port can join in", "set peer-cert-file, peer-key-file, peer-trusted-ca-file and peer-client-cert-auth"})
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", "nothing is open to the network without TLS", ""})
	}
	return all
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (e *examination) checkAddresses() (all []finding) {
	owner := map[string]string{}
	complain := func(m *surveyed, u, what string) {
		all = append(all, finding{warning, "", fmt.Sprintf("%s advertises %s, %s", m.name(), u, what), "set advertise-client-urls (or, for peers, kvctl member update --peer-urls) to what others reach it at"})
	}
	for _, m := range e.members {
		for _, u := range slices.Concat(m.GetClientURLs(), m.GetPeerURLs()) {
			host, _ := serves(u)
			ip := net.ParseIP(host)
			switch {
			case ip != nil && ip.IsUnspecified():
				complain(m, u, "which is no address to connect to")
			case loopback(host) && e.spread():
				complain(m, u, "which is another computer for everybody else")
			case owner[u] != "" && owner[u] != m.name():
				complain(m, u, "as "+owner[u]+" does")
			}
			owner[u] = m.name()
		}
	}
	if len(all) == 0 {
		all = append(all, finding{fine, "", "every member has its own", ""})
	}
	return all
}

// spread says whether the members are on several computers.
func (e *examination) spread() bool {
	for _, m := range e.members {
		for _, u := range m.GetPeerURLs() {
			if host, _ := serves(u); !loopback(host) {
				return len(e.members) > 1
			}
		}
	}
	return false
}
