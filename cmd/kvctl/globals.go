package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// globals are the flags every command takes.
type globals struct {
	endpoints       []string
	dialTimeout     time.Duration
	commandTimeout  time.Duration
	keepaliveTime   time.Duration
	keepaliveWait   time.Duration
	maxRequestBytes int
	maxRecvBytes    int

	insecureTransport bool
	insecureDiscovery bool
	skipVerify        bool
	cert, key, cacert string
	srvDomain         string
	srvName           string

	user, password, token string

	format string
	hex    bool
	debug  bool
}

// bind declares the flags on the root command, hidden: "kvctl options" shows
// them, the help of each command need not repeat them.
func (g *globals) bind(root *cobra.Command) {
	fs := root.PersistentFlags()
	fs.StringSliceVar(&g.endpoints, "endpoints", []string{"127.0.0.1:2379"}, "gRPC endpoints")
	fs.BoolVar(&g.debug, "debug", false, "log what the client does to stderr")
	fs.StringVarP(&g.format, "write-out", "w", "simple", "output format (fields, json, protobuf, simple, table)")
	fs.BoolVar(&g.hex, "hex", false, "print byte strings and identities in hexadecimal")

	fs.DurationVar(&g.dialTimeout, "dial-timeout", 2*time.Second, "time to get a token from the server when a connection begins")
	fs.DurationVar(&g.commandTimeout, "command-timeout", 5*time.Second, "time a short command may take, without dialing")
	fs.DurationVar(&g.keepaliveTime, "keepalive-time", 2*time.Second, "time between probes of an idle connection")
	fs.DurationVar(&g.keepaliveWait, "keepalive-timeout", 6*time.Second, "time to wait for the answer to a probe")
	fs.IntVar(&g.maxRequestBytes, "max-request-bytes", 0, "largest request to send, in bytes (0: 2 MiB)")
	fs.IntVar(&g.maxRecvBytes, "max-recv-bytes", 0, "largest response to accept, in bytes (0: math.MaxInt32)")

	fs.BoolVar(&g.insecureTransport, "insecure-transport", true, "connect without TLS where the endpoint does not ask for it")
	fs.BoolVar(&g.insecureDiscovery, "insecure-discovery", true, "accept SRV records that name endpoints without TLS")
	fs.BoolVar(&g.skipVerify, "insecure-skip-tls-verify", false, "do not verify the server's certificate (for tests only)")
	fs.StringVar(&g.cert, "cert", "", "file with this client's TLS certificate")
	fs.StringVar(&g.key, "key", "", "file with the key of this client's TLS certificate")
	fs.StringVar(&g.cacert, "cacert", "", "file with the CA certificates that servers are verified against")
	fs.StringVarP(&g.srvDomain, "discovery-srv", "d", "", "domain whose SRV records name the endpoints")
	fs.StringVar(&g.srvName, "discovery-srv-name", "", "service name to query for DNS discovery")

	fs.StringVar(&g.user, "user", "", "username[:password] (asks for a missing password)")
	fs.StringVar(&g.password, "password", "", "password; --user must then not contain one")
	fs.StringVar(&g.token, "auth-jwt-token", "", "JWT to authenticate with, instead of --user and --password")

	// Both fail only for a flag that was not declared above.
	_ = root.RegisterFlagCompletionFunc("write-out", oneOf(formats...))
	fs.VisitAll(func(f *pflag.Flag) { _ = fs.MarkHidden(f.Name) })
}

// envPrefixes in the order they are looked up: ours, then etcdctl's, so that
// an environment prepared for etcdctl serves kvctl too.
var envPrefixes = []string{"KVCTL_", "ETCDCTL_"}

func envName(prefix, flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment fills flags that the command line left out. As in etcdctl,
// a variable beside the flag of the same meaning is refused, because nobody
// can tell which one was meant. It returns the variables with one of our
// prefixes that no flag knows.
func fromEnvironment(fs *pflag.FlagSet, environ []string) (unknown []string, err error) {
	env := map[string]string{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	known := map[string]bool{}
	for _, prefix := range envPrefixes {
		known[prefix+"WATCH_KEY"], known[prefix+"WATCH_RANGE_END"] = true, true
	}
	fs.VisitAll(func(f *pflag.Flag) {
		given := f.Changed
		for _, prefix := range envPrefixes {
			name := envName(prefix, f.Name)
			known[name] = true
			value, present := env[name]
			if given && present && err == nil {
				err = failf(exitError, "conflicting environment variable %s is shadowed by the command-line flag --%s (unset the variable or drop the flag)", name, f.Name)
			}
			if !f.Changed && value != "" && err == nil {
				if bad := fs.Set(f.Name, value); bad != nil {
					err = failf(exitBadArgs, "invalid value %q for %s: %w", value, name, bad)
				}
			}
		}
	})
	for _, e := range environ {
		name, _, _ := strings.Cut(e, "=")
		for _, prefix := range envPrefixes {
			if strings.HasPrefix(name, prefix) && !known[name] {
				unknown = append(unknown, e)
			}
		}
	}
	return unknown, err
}

func (p *program) optionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "options",
		Short:   "Shows the flags that every command takes",
		GroupID: groupUtility,
		Run: func(cmd *cobra.Command, _ []string) {
			shown := pflag.NewFlagSet("global", pflag.ContinueOnError)
			cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
				visible := *f
				visible.Hidden = false
				shown.AddFlag(&visible)
			})
			fmt.Fprint(p.out, "The following options can be passed to any command:\n\n", shown.FlagUsages())
		},
	}
}
