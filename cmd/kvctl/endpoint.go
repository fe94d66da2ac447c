package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func (p *program) endpointCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "endpoint <subcommand>",
		Short:   "Asks single members how they are",
		GroupID: groupCluster,
	}
	var rev int64
	group.PersistentFlags().Bool("cluster", false, "ask all members of the cluster, as its member list names them")
	hash := &cobra.Command{
		Use:   "hashkv",
		Short: "Prints the hash of each endpoint's store and its past",
		Run:   p.does(func(cmd *cobra.Command, _ []string) error { return p.endpointHash(cmd, rev) }),
	}
	hash.PersistentFlags().Int64Var(&rev, "rev", 0, "last revision to hash (0: the present)")
	group.AddCommand(hash,
		&cobra.Command{
			Use:   "health",
			Short: "Tests whether each endpoint serves requests",
			Run:   p.does(p.endpointHealth),
		},
		&cobra.Command{
			Use:   "status",
			Short: "Prints the status of each endpoint",
			Long: `Prints the status of each endpoint; in the simple format as a line of
` + strings.Join(statusColumns, ", ") + ".\n",
			Run: p.does(p.endpointStatus),
		},
	)
	return group
}

// each lists the endpoints to ask, one by one: those given, or, with
// --cluster, those all members advertise.
func (s *session) each(cmd *cobra.Command) ([]string, error) {
	cluster, err := cmd.Flags().GetBool("cluster")
	if err != nil {
		return nil, fail(exitError, err)
	}
	if !cluster {
		return s.spec.Endpoints, nil
	}
	c, err := s.dial(s.log.Named("etcd-client"), s.spec.Endpoints...)
	if err != nil {
		return nil, err
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	list, err := c.MemberList(ctx)
	if err != nil {
		return nil, s.refused(exitError, fmt.Errorf("failed to fetch endpoints from etcd cluster member list: %w", err))
	}
	var endpoints []string
	for _, m := range list.Members {
		endpoints = append(endpoints, m.GetClientURLs()...)
	}
	return endpoints, nil
}

func (p *program) endpointHealth(cmd *cobra.Command, _ []string) error {
	s, err := p.prepare(cmd, healthAnswer{})
	if err != nil {
		return err
	}
	endpoints, err := s.each(cmd)
	if err != nil {
		return err
	}
	var asked sync.WaitGroup
	found := make([]endpointHealth, len(endpoints))
	for i, e := range endpoints {
		asked.Go(func() { found[i] = s.health(e) })
	}
	asked.Wait()

	var a healthAnswer
	healthy := true
	for _, h := range found {
		a = append(a, h)
		healthy = healthy && h.Error == ""
	}
	if p.globals.format == "simple" {
		for _, h := range a {
			if h.Error != "" {
				fmt.Fprintf(p.errs, "%s is unhealthy: failed to commit proposal: %v\n", h.Endpoint, h.Error)
			}
		}
	}
	if err := p.print(a); err != nil {
		return err
	}
	if !healthy {
		return &failure{code: exitError, err: errors.New("unhealthy cluster"), hint: s.hint(nil)}
	}
	return nil
}

// health asks for a key, any key: what counts is that a leader agreed to the
// question. A refusal for want of a permission had to pass it, too.
func (s *session) health(endpoint string) endpointHealth {
	h := endpointHealth{Endpoint: endpoint}
	c, err := s.dial(s.log.Named("client"), endpoint)
	if err != nil {
		h.Error = err.Error()
		return h
	}
	defer hangUp(c)
	ctx, cancel := s.context()
	defer cancel()
	begun := time.Now()
	_, err = c.Get(ctx, "health")
	h.Took = time.Since(begun).String()
	if err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		h.Error = err.Error()
		return h
	}
	alarms, err := c.AlarmList(ctx)
	switch {
	case err != nil:
		h.Error = "Unable to fetch the alarm list"
	case len(alarms.Alarms) > 0:
		h.Error = "Active Alarm(s): "
		for _, a := range alarms.Alarms {
			switch kind := a.GetAlarm(); kind {
			case pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT:
				h.Error += kind.String() + " "
			default:
				h.Error += "UNKNOWN "
			}
		}
	default:
		h.Health = true
	}
	return h
}

func (p *program) endpointStatus(cmd *cobra.Command, _ []string) error {
	s, err := p.prepare(cmd, statusAnswer{})
	if err != nil {
		return err
	}
	var a statusAnswer
	broken, err := s.ask(cmd, "status", func(c *clientv3.Client, endpoint string) error {
		ctx, cancel := s.context()
		defer cancel()
		resp, err := c.Status(ctx, endpoint)
		if err == nil {
			a = append(a, endpointStatus{endpoint, (*pb.StatusResponse)(resp)})
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := p.print(a); err != nil {
		return err
	}
	if broken != nil {
		return &failure{code: exitError, hint: s.hint(broken)} // already told, line by line
	}
	return nil
}

func (p *program) endpointHash(cmd *cobra.Command, rev int64) error {
	s, err := p.prepare(cmd, hashAnswer{})
	if err != nil {
		return err
	}
	var a hashAnswer
	broken, err := s.ask(cmd, "hash", func(c *clientv3.Client, endpoint string) error {
		ctx, cancel := s.context()
		defer cancel()
		resp, err := c.HashKV(ctx, endpoint, rev)
		if err == nil {
			a = append(a, endpointHash{endpoint, (*pb.HashKVResponse)(resp)})
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := p.print(a); err != nil {
		return err
	}
	if broken != nil {
		return s.refused(exitError, broken)
	}
	return nil
}

// ask puts one question to each endpoint in turn and says which did not
// answer; broken is the last reason.
func (s *session) ask(cmd *cobra.Command, what string, question func(*clientv3.Client, string) error) (broken, err error) {
	endpoints, err := s.each(cmd)
	if err != nil {
		return nil, err
	}
	for _, e := range endpoints {
		c, err := s.dial(s.log.Named("etcd-client"), e)
		if err != nil {
			return nil, err
		}
		err = question(c, e)
		hangUp(c)
		if err != nil {
			fmt.Fprintf(s.errs, "Failed to get the %s of endpoint %s (%v)\n", what, e, err)
			broken = err
		}
	}
	return broken, nil
}

type endpointHealth struct {
	Endpoint string `json:"endpoint"`
	Health   bool   `json:"health"`
	Took     string `json:"took"`
	Error    string `json:"error,omitempty"`
}

type healthAnswer []endpointHealth

func (a healthAnswer) simple(g *page) {
	for _, h := range a {
		if h.Error == "" {
			g.linef("%s is healthy: successfully committed proposal: took = %v", h.Endpoint, h.Took)
		}
	}
}

func (a healthAnswer) fields(g *page) {
	for _, h := range a {
		g.linef(`"Endpoint" : %q`, h.Endpoint)
		g.line(`"Health" :`, h.Health)
		g.line(`"Took" :`, h.Took)
		g.line(`"Error" :`, h.Error)
		g.line()
	}
}

func (a healthAnswer) json(bool) any { return a }

func (a healthAnswer) table() (header []string, rows [][]string) {
	for _, h := range a {
		rows = append(rows, []string{h.Endpoint, strconv.FormatBool(h.Health), h.Took, h.Error})
	}
	return []string{"endpoint", "health", "took", "error"}, rows
}

type endpointStatus struct {
	Endpoint string             `json:"Endpoint"`
	Status   *pb.StatusResponse `json:"Status"`
}

type statusAnswer []endpointStatus

var statusColumns = []string{
	"endpoint", "ID", "version", "storage version", "db size", "in use", "percentage not in use", "quota",
	"is leader", "is learner", "raft term", "raft index", "raft applied index", "errors",
	"downgrade target version", "downgrade enabled",
}

func (a statusAnswer) simple(g *page) { g.rows(a.table()) }

func (a statusAnswer) json(bool) any { return a }

func (a statusAnswer) table() (header []string, rows [][]string) {
	for _, e := range a {
		s := e.Status
		free := int64(0)
		if s.GetDbSize() > 0 {
			free = 100 - s.GetDbSizeInUse()*100/s.GetDbSize()
		}
		rows = append(rows, []string{
			e.Endpoint,
			fmt.Sprintf("%x", s.GetHeader().GetMemberId()),
			s.GetVersion(),
			s.GetStorageVersion(),
			humanize.Bytes(uint64(s.GetDbSize())),
			humanize.Bytes(uint64(s.GetDbSizeInUse())),
			fmt.Sprintf("%d%%", free),
			humanize.Bytes(uint64(s.GetDbSizeQuota())),
			strconv.FormatBool(s.GetLeader() == s.GetHeader().GetMemberId()),
			strconv.FormatBool(s.GetIsLearner()),
			strconv.FormatUint(s.GetRaftTerm(), 10),
			strconv.FormatUint(s.GetRaftIndex(), 10),
			strconv.FormatUint(s.GetRaftAppliedIndex(), 10),
			strings.Join(s.GetErrors(), ", "),
			s.GetDowngradeInfo().GetTargetVersion(),
			strconv.FormatBool(s.GetDowngradeInfo().GetEnabled()),
		})
	}
	return statusColumns, rows
}

func (a statusAnswer) fields(g *page) {
	for _, e := range a {
		s := e.Status
		g.header(s.GetHeader())
		g.linef(`"Version" : %q`, s.GetVersion())
		g.linef(`"StorageVersion" : %q`, s.GetStorageVersion())
		g.line(`"DBSize" :`, s.GetDbSize())
		g.line(`"DBSizeInUse" :`, s.GetDbSizeInUse())
		g.line(`"DBSizeQuota" :`, s.GetDbSizeQuota())
		g.line(`"Leader" :`, s.GetLeader())
		g.line(`"IsLearner" :`, s.GetIsLearner())
		g.line(`"RaftIndex" :`, s.GetRaftIndex())
		g.line(`"RaftAppliedIndex" :`, s.GetRaftAppliedIndex())
		g.line(`"Errors" :`, s.GetErrors())
		g.linef(`"Endpoint" : %q`, e.Endpoint)
		g.linef(`"DowngradeTargetVersion" : %q`, s.GetDowngradeInfo().GetTargetVersion())
		g.line(`"DowngradeEnabled" :`, s.GetDowngradeInfo().GetEnabled())
		g.line()
	}
}

type endpointHash struct {
	Endpoint string             `json:"Endpoint"`
	HashKV   *pb.HashKVResponse `json:"HashKV"`
}

type hashAnswer []endpointHash

func (a hashAnswer) simple(g *page) { g.rows(a.table()) }

func (a hashAnswer) json(bool) any { return a }

func (a hashAnswer) table() (header []string, rows [][]string) {
	for _, e := range a {
		rows = append(rows, []string{e.Endpoint, fmt.Sprint(e.HashKV.GetHash()), fmt.Sprint(e.HashKV.GetHashRevision())})
	}
	return []string{"endpoint", "hash", "hash_revision"}, rows
}

func (a hashAnswer) fields(g *page) {
	for _, e := range a {
		g.header(e.HashKV.GetHeader())
		g.linef(`"Endpoint" : %q`, e.Endpoint)
		g.line(`"Hash" :`, e.HashKV.GetHash())
		g.line(`"HashRevision" :`, e.HashKV.GetHashRevision())
		g.line()
	}
}
