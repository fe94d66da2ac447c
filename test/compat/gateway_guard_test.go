package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"kvd/test/oracle"
)

// TestTheGatewayObeysItsFlags asks both servers under flags that concern it.
func TestTheGatewayObeysItsFlags(t *testing.T) {
	t.Parallel()
	put := letter{path: "/v3/kv/put", body: `{"key":"Zm9v"}`}
	from := func(l letter, header ...string) letter { l.header = header; return l }
	for _, c := range []struct {
		flag    string
		letters []letter
	}{
		{"--enable-grpc-gateway=false", []letter{put, {path: "/v3/"}, {path: "/v3beta/kv/put"}}},
		{"--cors=http://good.example:80", []letter{
			put, from(put, "Origin", "http://good.example:80"), from(put, "Origin", "http://bad.example:80"),
		}},
		{"--max-request-bytes=100", []letter{put, {path: "/v3/kv/put", body: `{"key":"` + strings.Repeat("Zm9v", 50) + `"}`}}},
		{"--max-txn-ops=1", []letter{{path: "/v3/kv/txn", body: `{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"Yg=="}}]}`}}},
	} {
		judge, judged := pair(t, c.flag)
		desks := [2]desk{newDesk(t, judge), newDesk(t, judged)}
		for _, l := range c.letters {
			if a, b := desks[0].send(l), desks[1].send(l); a != b {
				t.Errorf("%s: POST %s %s %q\n--- etcd\n%s\n--- kvd\n%s", c.flag, l.path, clip(l.body, 100), l.header, a, b)
			}
		}
	}
}

// TestOnlyListedHostsReachTheGateway is the guard against rebound names. What is
// said to who is refused is kvd's own.
func TestOnlyListedHostsReachTheGateway(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t, "--host-whitelist=good.example,127.0.0.1")
	for host, want := range map[string]int{"good.example": 200, "good.example:2379": 200, "bad.example": 421, "127.0.0.1": 200, "127.0.0.2": 421} {
		for _, m := range []*oracle.Member{judge, judged} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.ClientURL+"/v3/kv/put", strings.NewReader(`{"key":"Zm9v"}`))
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want || resp.Header.Get("Access-Control-Allow-Origin") == "" != (want == 421) {
				t.Errorf("%s, host %s: %s, want %d", m.Binary.Name, host, resp.Status, want)
			}
		}
	}
}

// TestTokensPassTheGateway has users at both gateways: with a token, with one that
// is none, and without.
func TestTokensPassTheGateway(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t, "--bcrypt-cost=4")
	var told [2][]string
	for i, m := range []*oracle.Member{judge, judged} {
		told[i] = withTokens(t, m)
	}
	if !slices.Equal(told[0], told[1]) {
		for i := range told[0] {
			if a, b := told[0][i], told[1][i]; a != b {
				t.Errorf("--- etcd\n%s\n--- kvd\n%s", a, b)
			}
		}
	}
}

func withTokens(t *testing.T, m *oracle.Member) (told []string) {
	t.Helper()
	d := newDesk(t, m)
	for _, l := range []letter{
		{path: "/v3/auth/user/add", body: `{"name":"root","password":"pw"}`},
		{path: "/v3/auth/user/add", body: `{"name":"u","password":"pw"}`},
		{path: "/v3/auth/role/add", body: `{"name":"root"}`},
		{path: "/v3/auth/role/add", body: `{"name":"r"}`},
		{path: "/v3/auth/role/grant", body: `{"name":"r","perm":{"permType":"READWRITE","key":"Zm9v"}}`},
		{path: "/v3/auth/user/grant", body: `{"user":"root","role":"root"}`},
		{path: "/v3/auth/user/grant", body: `{"user":"u","role":"r"}`},
		{path: "/v3/auth/enable"},
		{path: "/v3/auth/authenticate", body: `{"name":"u","password":"wrong"}`},
	} {
		told = append(told, l.path+" "+d.send(l))
	}
	users := map[string]string{"nobody": "", "a stranger": "no.token", "u": tokenFor(t, m, "u"), "root": tokenFor(t, m, "root")}
	for _, name := range []string{"nobody", "a stranger", "u", "root"} {
		var header []string
		if token := users[name]; token != "" {
			header = []string{"Authorization", token}
		}
		for _, l := range []letter{
			{path: "/v3/kv/put", body: `{"key":"Zm9v","value":"MQ=="}`},
			{path: "/v3/kv/put", body: `{"key":"bm8=","value":"MQ=="}`},
			{path: "/v3/kv/range", body: `{"key":"Zm9v"}`},
			{path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA=="}`},
			{path: "/v3/watch", body: `{"create_request":{"key":"Zm9v"}}`, lines: 1},
			{path: "/v3/watch", body: `{"create_request":{"key":"AA==","range_end":"AA=="}}`, lines: 1},
			{path: "/v3/auth/user/list"},
			{path: "/v3/maintenance/hashkv"},
		} {
			l.header = header
			told = append(told, name+" "+l.path+" "+d.send(l))
		}
	}
	for _, protocol := range []string{"Bearer, " + users["u"], "Bearer, no.token", ""} {
		told = append(told, overSocketAs(t, d, m, protocol))
	}
	return told
}

func tokenFor(t *testing.T, m *oracle.Member, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerWithin)
	defer cancel()
	body := fmt.Sprintf(`{"name":%q,"password":"pw"}`, name)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.ClientURL+"/v3/auth/authenticate", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var r struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil || r.Token == "" {
		t.Fatalf("%s gets no token: %s, %v", name, resp.Status, err)
	}
	return r.Token
}

// overSocketAs watches a key over a websocket with a token, and tells the first
// answer.
func overSocketAs(t *testing.T, d desk, m *oracle.Member, protocol string) string {
	t.Helper()
	header := http.Header{}
	if protocol != "" {
		header.Set("Sec-WebSocket-Protocol", protocol)
	}
	conn, r, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(m.ClientURL, "http")+"/v3/watch", header)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	defer r.Body.Close()
	if err := conn.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
		t.Fatal(err)
	}
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"Zm9v"}}`)); err != nil {
		t.Fatal(err)
	}
	_, frame, err := conn.ReadMessage()
	return fmt.Sprint("socket ", canonical(local.ReplaceAllString(d.names.Replace(string(frame)), `"$1":"N"`)), err != nil)
}

// TestACertificateIsNoUserAtTheGateway shows root's certificate to both gateways.
func TestACertificateIsNoUserAtTheGateway(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.both("server")
	flags := []string{
		"--cert-file=" + a.file("server.crt"), "--key-file=" + a.file("server.key"),
		"--trusted-ca-file=" + a.file("ca.crt"), "--client-cert-auth", "--bcrypt-cost=4",
	}
	root := a.trust(a.both("root"))
	var told [2][]string
	for i, bin := range []oracle.Binary{oracle.Etcd(t), target(t)} {
		m, address := startSecure(t, bin, flags...)
		auth := pb.NewAuthClient(m.Dial())
		ask := func() {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: root}, Timeout: answerWithin}
			defer client.CloseIdleConnections()
			for _, path := range []string{"/v3/kv/put", "/v3/auth/user/list", "/version"} {
				method := http.MethodPost
				if path == "/version" {
					method = http.MethodGet
				}
				told[i] = append(told[i], path+" "+answerOf(t, client, method, "https://"+address+path))
			}
		}
		ask()
		ctx, cancel := context.WithTimeout(t.Context(), answerWithin)
		defer cancel()
		for _, do := range []func() error{
			func() error {
				_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "pw"})
				return err
			},
			func() error { _, err := auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"}); return err },
			func() error {
				_, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
				return err
			},
			func() error { _, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{}); return err },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		ask()
	}
	for i := range told[0] {
		if told[0][i] != told[1][i] {
			t.Errorf("etcd: %s\nkvd:  %s", told[0][i], told[1][i])
		}
	}
	if last := told[1][3]; !strings.Contains(last, "400") {
		t.Errorf("root's certificate is taken: %s", last)
	}
}

func answerOf(t *testing.T, client *http.Client, method, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Status
	}
	return resp.Status + " " + strings.ReplaceAll(canonical(string(body)), "\u00a0", " ")
}
