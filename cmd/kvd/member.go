package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"kvd/internal/bootstrap"
	"kvd/internal/config"
	"kvd/internal/daemon"
)

const memberUsage = `usage:
  kvd member rejoin [options] [flags]

Replaces a member whose data is bad: removes it from its cluster, adds it again
under a new ID, sets its data aside, and leaves word for the next start, which
fetches the data anew from the other members. Run it on the member's host, with
kvd stopped. It can be repeated after it was cut short. Then start kvd.

options:
  --endpoints URLS      client URLs of other members; those that the member
                        last knew
  --dry-run             say what would be done
  --yes                 do not ask
  --voter               add it as a voter at once. As it is, it is added as a
                        learner, and gets its vote when it has the data: the
                        others need not wait for it
  --delete              delete the old data instead of keeping it beside the new
  --user NAME[:PASS]    log in; the password is read from KVD_PASSWORD if not given
  --cacert, --cert, --key FILE
                        TLS towards the other members; the files of this
                        member's client port

The flags are those of the daemon; see kvd --help.
`

// rejoinOptions are the command's own.
type rejoinOptions struct {
	endpoints         []string
	dryRun, yes       bool
	voter, delete     bool
	user              string
	cacert, cert, key string
	patience          time.Duration // for a cluster that is not healthy at once
}

// cutRejoinOptions takes the command's own options out of the arguments; the
// rest are the daemon's.
func cutRejoinOptions(args []string) (o rejoinOptions, rest []string, err error) {
	o.patience = 30 * time.Second
	var endpoints string
	switches := map[string]*bool{"--dry-run": &o.dryRun, "--yes": &o.yes, "--voter": &o.voter, "--delete": &o.delete}
	values := map[string]*string{"--endpoints": &endpoints, "--user": &o.user, "--cacert": &o.cacert, "--cert": &o.cert, "--key": &o.key}
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		if s := switches[name]; s != nil {
			if given {
				return o, nil, fmt.Errorf("%s takes no value", name)
			}
			*s = true
			continue
		}
		v := values[name]
		switch {
		case v == nil:
			rest = append(rest, args[i])
			continue
		case !given && i+1 == len(args):
			return o, nil, fmt.Errorf("%s needs a value", name)
		case !given:
			i++
			value = args[i]
		}
		*v = value
	}
	for e := range strings.SplitSeq(endpoints, ",") {
		if e = strings.TrimSpace(e); e != "" {
			o.endpoints = append(o.endpoints, e)
		}
	}
	return o, rest, nil
}

func runMember(args []string, in io.Reader, out, errs io.Writer) int {
	if len(args) > 0 && slices.Contains([]string{"help", "--help", "-h"}, args[0]) ||
		len(args) > 1 && args[0] == "rejoin" && slices.Contains([]string{"--help", "-h"}, args[1]) {
		fmt.Fprint(out, memberUsage)
		return 0
	}
	if len(args) == 0 || args[0] != "rejoin" {
		fmt.Fprint(errs, memberUsage)
		return config.ExitStatus
	}
	o, rest, err := cutRejoinOptions(args[1:])
	if err != nil {
		fmt.Fprintln(errs, "kvd member rejoin:", err)
		return config.ExitStatus
	}
	c, err := config.LoadAside(rest, os.Environ(), os.ReadFile)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Fprint(out, memberUsage)
		return 0
	case err != nil:
		fmt.Fprintln(errs, err)
		return config.ExitStatus
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := rejoinHere(ctx, c, o, in, out); err != nil {
		fmt.Fprintln(errs, "kvd member rejoin:", err)
		return 1
	}
	return 0
}

// rejoinHere replaces the member of a configuration.
func rejoinHere(ctx context.Context, c *config.Config, o rejoinOptions, in io.Reader, out io.Writer) error {
	remains, err := bootstrap.Inspect(bootstrap.Options{DataDir: c.Member.DataDir, WALDir: c.Member.WALDir})
	if err != nil {
		return err
	}
	defer remains.Release()
	for _, fault := range remains.Faults {
		fmt.Fprintf(out, "cannot read %v\n", fault)
	}
	who := identity{ID: remains.ID, Cluster: remains.Cluster, Name: c.Member.Name, PeerURLs: daemon.Texts(c.Advertise.Peer)}
	for _, m := range remains.Members {
		if m.ID == who.ID {
			who.Recorded = m.PeerURLs
		}
	}
	if earlier, err := bootstrap.ReadRejoin(c.Member.DataDir); err == nil && earlier != nil {
		who.Fresh = earlier.Member
	}
	if len(o.endpoints) == 0 {
		if o.endpoints = otherEndpoints(remains.Members, who); len(o.endpoints) == 0 {
			return errors.New("who else is in the cluster cannot be read from the data directory; name client URLs of other members with --endpoints")
		}
	}
	others, err := dialCluster(ctx, o, c)
	if err != nil {
		return err
	}
	defer others.close()
	r := &rejoining{
		who: who, options: o, cluster: others, remains: remains, dataDir: c.Member.DataDir, out: out,
		ask: func() (bool, error) { return confirm(in, out) }, now: time.Now,
	}
	return r.run(ctx)
}

// confirm asks whether to go on.
func confirm(in io.Reader, out io.Writer) (bool, error) {
	fmt.Fprint(out, "Do this? Type yes to go on: ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if !strings.HasSuffix(line, "\n") {
		fmt.Fprintln(out)
	}
	return strings.TrimSpace(line) == "yes", nil
}

// password of a user who gave none with the name.
func password() string { return os.Getenv("KVD_PASSWORD") }
