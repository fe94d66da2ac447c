package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/client/pkg/v3/srv"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/grpclog"
)

// session is what one command works with once its arguments are known to be
// good: how to connect, and how to print.
type session struct {
	*program
	spec *clientv3.ConfigSpec
	log  *zap.Logger
	last *lastLogged // what the client library complained about last
}

// prepare reads the environment and the global flags. answers are the kinds
// of answer the command will print: a format that cannot show them is refused
// here, before anything is sent, so that "put -w table" does not write.
func (p *program) prepare(cmd *cobra.Command, answers ...answer) (*session, error) {
	inherited := cmd.InheritedFlags()
	unknown, err := fromEnvironment(inherited, p.environ)
	if err != nil {
		return nil, err
	}
	s := &session{program: p}
	s.log, s.last = p.logger()
	p.tellUnknown(s.log, unknown)
	p.logGRPC(inherited)

	if err := p.globals.check(cmd.Flags()); err != nil {
		return nil, err
	}
	for _, a := range answers {
		if err := supports(p.globals.format, a); err != nil {
			return nil, err
		}
	}
	s.spec, err = p.connection()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// open is prepare for the usual command, which needs one client.
func (p *program) open(cmd *cobra.Command, answers ...answer) (*session, *clientv3.Client, error) {
	s, err := p.prepare(cmd, answers...)
	if err != nil {
		return nil, nil, err
	}
	c, err := s.dial(s.log.Named("etcd-client"), s.spec.Endpoints...)
	if err != nil {
		return nil, nil, err
	}
	return s, c, nil
}

func (s *session) dial(log *zap.Logger, endpoints ...string) (*clientv3.Client, error) {
	spec := s.spec.Clone()
	spec.Endpoints = endpoints
	cfg, err := clientv3.NewClientConfig(spec, s.log)
	if err != nil {
		return nil, fail(exitBadArgs, err)
	}
	cfg.Logger = log
	c, err := clientv3.New(*cfg)
	if err != nil {
		return nil, s.refused(exitBadConnection, err)
	}
	return c, nil
}

// quietly has the client library log nothing from here on, for commands whose
// answer is what went wrong.
func (s *session) quietly() *session {
	s.log = zap.New(s.last)
	return s
}

// hangUp closes c. The answer we have is worth no less if the goodbye fails.
func hangUp(c *clientv3.Client) { _ = c.Close() }

// context bounds one short request. Time a person spent typing before it does
// not count.
func (s *session) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), s.globals.commandTimeout)
}

// refused is fail for an error that came from the cluster: it adds the hint.
func (s *session) refused(code int, err error) error {
	return &failure{code: code, err: err, hint: s.hint(err)}
}

func (g *globals) check(fs *pflag.FlagSet) error {
	for _, name := range []string{"cert", "key", "cacert"} {
		if f := fs.Lookup(name); f.Changed && f.Value.String() == "" {
			return failf(exitBadArgs, "empty string is passed to --%s option", name)
		}
	}
	if !known(g.format) {
		return fail(exitBadFeature, errors.New("unsupported output format"))
	}
	return nil
}

// connection gathers how to reach the cluster and who we are.
func (p *program) connection() (*clientv3.ConfigSpec, error) {
	g := &p.globals
	endpoints, err := p.endpoints()
	if err != nil {
		return nil, fail(exitError, err)
	}
	spec := &clientv3.ConfigSpec{
		Endpoints:          endpoints,
		DialTimeout:        g.dialTimeout,
		KeepAliveTime:      g.keepaliveTime,
		KeepAliveTimeout:   g.keepaliveWait,
		MaxCallSendMsgSize: g.maxRequestBytes,
		MaxCallRecvMsgSize: g.maxRecvBytes,
		Secure: &clientv3.SecureConfig{
			Cert: g.cert, Key: g.key, Cacert: g.cacert,
			InsecureTransport:  g.insecureTransport,
			InsecureSkipVerify: g.skipVerify,
		},
	}
	if !g.insecureDiscovery {
		spec.Secure.ServerName = g.srvDomain
	}
	spec.Auth, err = p.identity()
	return spec, err
}

// identity is who the flags say we are: nil for nobody.
func (p *program) identity() (*clientv3.AuthConfig, error) {
	g := &p.globals
	switch {
	case g.token != "":
		return &clientv3.AuthConfig{Token: g.token}, nil
	case g.user == "":
		return nil, nil
	case g.password != "":
		return &clientv3.AuthConfig{Username: g.user, Password: g.password}, nil
	}
	name, password, given := strings.Cut(g.user, ":")
	if !given {
		var err error
		if password, err = askPassword("Password: ", p.in, p.out); err != nil {
			return nil, fail(exitError, err)
		}
	}
	return &clientv3.AuthConfig{Username: name, Password: password}, nil
}

// endpoints are those DNS names, or else those of --endpoints.
func (p *program) endpoints() ([]string, error) {
	g := &p.globals
	var found []string
	if g.srvDomain != "" {
		records, err := srv.GetClient("etcd-client", g.srvDomain, g.srvName)
		if err != nil {
			return nil, err
		}
		for _, e := range records.Endpoints {
			if !g.insecureDiscovery && strings.HasPrefix(e, "http://") {
				fmt.Fprintf(p.errs, "ignoring discovered insecure endpoint %q\n", e)
				continue
			}
			found = append(found, e)
		}
	}
	if len(found) == 0 {
		for _, e := range g.endpoints {
			found = append(found, strings.TrimSpace(e))
		}
	}
	return found, nil
}

// logGRPC says where gRPC's own log goes: nowhere below an error, except with
// --debug, which also lists the flags by the variables that would set them.
func (p *program) logGRPC(fs *pflag.FlagSet) {
	if !p.globals.debug {
		p.grpcLog(grpclog.NewLoggerV2(io.Discard, io.Discard, p.errs))
		return
	}
	p.grpcLog(grpclog.NewLoggerV2WithVerbosity(p.errs, p.errs, p.errs, 4))
	fs.VisitAll(func(f *pflag.Flag) {
		fmt.Fprintf(p.errs, "%s=%s\n", envName(envPrefixes[0], f.Name), unsecret(f))
	})
}

// unsecret is a flag's value as it may stand in a log.
func unsecret(f *pflag.Flag) string {
	value := f.Value.String()
	switch name, _, secret := strings.Cut(value, ":"); {
	case value != "" && (f.Name == "password" || f.Name == "auth-jwt-token"):
		return "***"
	case f.Name == "user" && secret:
		return name + ":***"
	}
	return value
}
