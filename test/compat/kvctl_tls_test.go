package compat

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"kvd/test/oracle"
)

// secured are the clients with servers that want a certificate, each with what
// stands for its files.
type secured struct {
	client oracle.Binary
	prefix string // of the environment
	server *oracle.Member
	places *strings.Replacer
	self   identity
}

// The flags of TLS, and the variables, have the effect that they have on
// etcdctl, with either server.
func TestTLSFlagsOfKvctlAreEtcdctls(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	a.both("server")
	a.both("client")
	stranger.both("client")
	var all []*secured
	for _, server := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		for _, client := range []secured{{client: oracle.Etcdctl(t), prefix: "ETCDCTL_"}, {client: oracle.Kvctl(t), prefix: "KVCTL_"}, {client: oracle.Kvctl(t), prefix: "ETCDCTL_"}} {
			m, address := startSecure(t, server, "--cert-file="+a.file("server.crt"), "--key-file="+a.file("server.key"),
				"--trusted-ca-file="+a.file("ca.crt"), "--client-cert-auth")
			client.server, client.self = m, newSide(t, m).self
			client.places = strings.NewReplacer("$SERVER", address, "$CA", a.file("ca.crt"), "$CERT", a.file("client.crt"), "$KEY", a.file("client.key"),
				"$OTHERCA", stranger.file("ca.crt"), "$OTHERCERT", stranger.file("client.crt"), "$OTHERKEY", stranger.file("client.key"))
			all = append(all, &client)
		}
	}
	served := 0
	const known = " --cacert=$CA --cert=$CERT --key=$KEY"
	for _, line := range []string{
		"put a 1 --endpoints=https://$SERVER" + known, "get a --endpoints=https://$SERVER -w=fields" + known, "get a --endpoints=$SERVER" + known,
		"get a --endpoints=$SERVER --insecure-transport=false" + known, "endpoint health --endpoints=https://$SERVER" + known,
		"get a --endpoints=https://$SERVER --insecure-skip-tls-verify --cert=$CERT --key=$KEY",
		"get a --endpoints=https://$SERVER --insecure-transport=false --insecure-skip-tls-verify --cert=$CERT --key=$KEY",
		"get a | ENDPOINTS=https://$SERVER CACERT=$CA CERT=$CERT KEY=$KEY", "put b 2 | ENDPOINTS=https://$SERVER INSECURE_SKIP_TLS_VERIFY=true CERT=$CERT KEY=$KEY",
		"get a --endpoints=https://$SERVER --cacert=$CA --command-timeout=1s", "get a --endpoints=https://$SERVER --cert=$CERT --key=$KEY --command-timeout=1s",
		"get a --endpoints=https://$SERVER --cacert=$OTHERCA --cert=$CERT --key=$KEY --command-timeout=1s",
		"get a --endpoints=https://$SERVER --cacert=$CA --cert=$OTHERCERT --key=$OTHERKEY --command-timeout=1s",
		"get a --endpoints=http://$SERVER --command-timeout=1s" + known, "get a --endpoints=https://$SERVER --command-timeout=1s",
		"get a --endpoints=https://$SERVER --cacert=$CA --cert=$CERT", "get a --endpoints=https://$SERVER --cacert=$CA --key=$KEY --command-timeout=1s",
		"get a --endpoints=https://$SERVER --cacert=$CA --cert=$CERT --key=$OTHERKEY", "get a --endpoints=https://$SERVER --cacert=$CA --cert=$KEY --key=$CERT",
		"get a | ENDPOINTS=https://$SERVER CACERT=$CA COMMAND_TIMEOUT=1s",
	} {
		said := make([]spoken, len(all))
		var running sync.WaitGroup // most lines wait
		for i, one := range all {
			running.Go(func() { said[i] = one.run(t, line) })
		}
		running.Wait()
		want := said[0]
		if want.status == 0 {
			served++
		}
		for i, one := range all {
			if got := said[i]; got != want {
				t.Errorf("%s\n--- etcdctl with etcd: %+v\n--- %s (%s) with %s: %+v", line, want, one.client.Name, one.prefix, one.server.Binary.Name, got)
			}
		}
	}
	if served != 9 {
		t.Errorf("%d lines were served", served)
	}
}

// run gives a line to the client; behind a bar are variables. Of the error
// output there is the last line, without the names of files.
func (s *secured) run(t *testing.T, line string) spoken {
	t.Helper()
	line, variables, _ := strings.Cut(line, " | ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	words := strings.Fields(s.places.Replace(line))
	if !strings.Contains(line+variables, "1s") {
		words = append(words, patient...)
	}
	cmd := exec.CommandContext(ctx, s.client.Path, words...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	for _, v := range strings.Fields(s.places.Replace(variables)) {
		cmd.Env = append(cmd.Env, s.prefix+v)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return spoken{errs: err.Error(), status: -1}
	}
	lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
	said := spoken{out.String(), lines[len(lines)-1], cmd.ProcessState.ExitCode()}
	p := &terminal{t: t, self: s.self, file: "no file"}
	said.out, said.errs = p.comparable(said.out), p.comparable(said.errs)
	return said
}

// make-mirror writes to a destination that wants a certificate.
func TestAMirrorWritesOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server")
	a.both("client")
	there, address := startSecure(t, target(t), "--cert-file="+a.file("server.crt"), "--key-file="+a.file("server.key"),
		"--trusted-ca-file="+a.file("ca.crt"), "--client-cert-auth")
	here := oracle.Start(t, target(t), oracle.Options{})
	kvctl := oracle.Kvctl(t)
	for i, client := range []oracle.Binary{oracle.Etcdctl(t), kvctl} {
		key := []string{"one", "two"}[i]
		kvctl.MustRun(t, append(patient, "put", key, "mirrored", "--endpoints", here.ClientURL)...)
		cmd := exec.Command(client.Path, append(patient, "make-mirror", "https://"+address, "--endpoints", here.ClientURL, "--prefix", key,
			"--dest-cacert", a.file("ca.crt"), "--dest-cert", a.file("client.crt"), "--dest-key", a.file("client.key"), "--dest-insecure-transport=false")...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for over := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if strings.Contains(kvctl.MustRun(t, append(patient, "get", key, "--endpoints", there.ClientURL)...), "mirrored") {
				break
			}
			if time.Now().After(over) {
				t.Errorf("%s has mirrored nothing", client.Name)
				break
			}
		}
		_ = cmd.Process.Kill() // it does not end by itself
		_ = cmd.Wait()
	}
}
