package oracle

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// between starts the proxy that is to stand before a server, at the server's
// client URL, and gives the server another.
func between(t testing.TB, bin Binary, o *Options) (*Member, error) {
	t.Helper()
	if bin.Through == "" && os.Getenv("KVD_TEST_PROXY") != "" && bin.Name != "etcd" {
		bin.Through = Kvd(t).Path
	}
	if bin.Through == "" || o.Proxy != "" || !strings.HasPrefix(o.ClientURL, "http://") || len(o.Sockets) > 0 {
		return nil, nil
	}
	o.listen = "http://" + FreeAddress(t)
	return launch(t, Binary{Name: "kvd", Path: bin.Through}, Options{
		Name: o.Name + "-proxy", ClientURL: o.ClientURL, Proxy: "on", Under: o.Under, Connect: o.Connect, Env: o.Env,
		Args: slices.Concat(slices.DeleteFunc(slices.Clone(o.Args), ofTheMemberAlone), []string{"--proxy-endpoints", o.listen},
			strings.Fields(os.Getenv("KVD_TEST_PROXY_ARGS"))),
	})
}

// ofTheMemberAlone tells which flags of a server its proxy cannot have, too.
func ofTheMemberAlone(flag string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
	return slices.Contains([]string{"listen-metrics-urls", "listen-client-http-urls", "config-file"}, name)
}
