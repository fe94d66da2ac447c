package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"kvd/internal/config"
	"kvd/internal/daemon"
	"kvd/internal/relay"
	"kvd/internal/sd"
)

// gatewayCommand has etcd's flags; `kvd gateway` and `kvd gateway start` are the
// same.
func (t *tool) gatewayCommand() *cobra.Command {
	var o relay.Options
	serve := t.does(func(*cobra.Command, []string) error { return t.gateway(o) })
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Passes TCP connections on to the members of a cluster",
		Long: `Takes TCP connections and passes their bytes on to members, without looking into
them: TLS goes through from the client to the member, whose certificate has to
name what clients connect to.

Members are named, or found by the records _etcd-client-ssl._tcp and
_etcd-client._tcp of a domain, by priority and weight. One that cannot be reached
gets no connections until it answers again. With --trusted-ca-file, and for members
that DNS tells, a member has to show a certificate before anybody is sent there.`,
		Example: `  kvd gateway --listen-addr 127.0.0.1:23790 --endpoints n1.example.com:2379,n2.example.com:2379
  kvd gateway start --discovery-srv example.com --trusted-ca-file /etc/kvd/tls/ca.crt`,
		Args: cobra.NoArgs,
		Run:  serve,
	}
	start := &cobra.Command{Use: "start", Short: "Passes TCP connections on to the members of a cluster; start may be left out", Args: cobra.NoArgs, Run: serve}
	cmd.AddCommand(start)
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.Listen, "listen-addr", "127.0.0.1:23790", "Where to listen for clients, host:port")
	flags.StringSliceVar(&o.Endpoints, "endpoints", []string{"127.0.0.1:2379"}, "Members to pass connections on to, host:port or URLs, with commas")
	flags.StringVar(&o.SRV.Domain, "discovery-srv", "", "Domain whose SRV records name the members; then --endpoints is not used")
	flags.StringVar(&o.SRV.Suffix, "discovery-srv-name", "", "Suffix of the service's name in these records")
	flags.BoolVar(&o.SRV.Insecure, "insecure-discovery", false, "Take also members whose records say that they have no TLS, and look at no certificate but with --trusted-ca-file")
	flags.StringVar(&o.TrustedCAFile, "trusted-ca-file", "", "File of the authorities that members' certificates are signed by")
	flags.DurationVar(&o.RetryDelay, "retry-delay", time.Minute, "How long an endpoint that failed is left alone, and how often DNS is asked")
	flags.DurationVar(&o.DialTimeout, "dial-timeout", 3*time.Second, "How long a member may take to accept a connection")
	flags.IntVar(&o.MaxConnections, "max-connections", 10_000, "Connections of clients at once; those beyond wait")
	flags.DurationVar(&o.Grace, "drain-timeout", 5*time.Second, "How long connections may go on when the gateway is told to stop")
	_ = cmd.MarkPersistentFlagFilename("trusted-ca-file") // fails only for an unknown flag
	return cmd
}

// extendBy is how much time the service manager is asked for while no endpoint is
// reached.
const extendBy = time.Minute

// gateway runs until it is told to stop.
func (t *tool) gateway(o relay.Options) error {
	log, err := daemon.NewLogger(config.Log{Level: slog.LevelInfo, Format: "auto", Outputs: []string{"default"}})
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // there is nowhere left to say so
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := &notices{to: sd.NewNotifier(), log: log.Logger}
	log.Info("starting kvd gateway", "version", version, "commit", commit, "listen-addr", o.Listen)
	r, err := relay.New(ctx, o, relay.Parts{Log: log.Logger, Told: n.told})
	if err != nil {
		return err
	}
	s := catch(log.Logger, func() { n.stopping(); cancel() }, func() daemon.Reread {
		r.Again() // it reads its files then; options are flags only
		return daemon.Reread{}
	})
	defer s.release()
	watched, ended := context.WithCancel(ctx)
	alive := make(chan struct{})
	go func() { defer close(alive); n.beat(watched, r) }()
	err = r.Run(ctx)
	ended()
	<-alive
	return errors.Join(err, n.to.Status("stopped"))
}

// notices are what the service manager is told.
type notices struct {
	to    sd.Notifier
	log   *slog.Logger
	ready bool
	last  string
}

func (n *notices) note(err error) {
	if err != nil {
		n.log.Warn("could not tell the service manager", "error", err)
	}
}

// told passes on how the gateway is doing; it is ready once it has reached a member.
func (n *notices) told(status string, ready bool) {
	switch {
	case ready && !n.ready:
		n.ready = true
		n.note(n.to.Ready(status))
	case status != n.last:
		n.note(n.to.Status(status))
	}
	if !n.ready {
		n.note(n.to.Extend(extendBy))
	}
	n.last = status
}

func (n *notices) stopping() { n.note(n.to.Stopping("stopping: connections may end")) }

// beat is the sign of life for the watchdog, if the gateway moves.
func (n *notices) beat(ctx context.Context, r *relay.Relay) {
	interval, err := sd.Watchdog()
	if err != nil {
		n.note(fmt.Errorf("no sign of life: %w", err))
	}
	if err != nil || interval == 0 {
		return
	}
	ticks := time.NewTicker(interval / 3)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			r.Moves()
			n.note(n.to.Alive())
		}
	}
}
