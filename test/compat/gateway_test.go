package compat

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"kvd/test/oracle"
)

// A letter is one POST to the JSON gateway.
type letter struct {
	path, body string
	header     []string // names and values in turn
	lines      int      // of a stream; else the whole answer is read
}

// b64 is a byte field's JSON.
func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// letters are sent in this order; every path is there at least once.
func letters() []letter {
	foo := fmt.Sprintf(`"key":%q`, b64("foo"))
	return []letter{
		{path: "/v3/kv/put", body: `{` + foo + `,"value":"YmFy"}`},
		{path: "/v3/kv/put", body: `{` + foo + `,"value":"YmFyMg","prev_kv":true}`},
		{path: "/v3/kv/put", body: `{` + foo + `,"value":"YmFyMw==","prevKv":true}`},
		{path: "/v3/kv/put", body: `{` + foo + `,"value":"x","ignore_value":true}`},
		{path: "/v3/kv/put", body: `{` + foo + `,"ignore_value":true}`},
		{path: "/v3/kv/put", body: `{` + foo + `,"lease":"99"}`},
		{path: "/v3/kv/put", body: `{}`},
		{path: "/v3/kv/put"},
		{path: "/v3/kv/put", body: `{"key":"-_-_","value":"_w"}`},
		{path: "/v3/kv/put", body: `{"nosuch":{"deep":[1]},` + foo + `}`},
		{path: "/v3beta/kv/range", body: `{` + foo + `}`},
		{path: "/v3alpha/kv/range", body: `{` + foo + `}`},
		{path: "/v3/kv/range", body: `{` + foo + `}`},
		{path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD"}`},
		{path: "/v3/kv/range", body: `{"key":"AA==","rangeEnd":"AA==","sortOrder":2,"keysOnly":true,"limit":1}`},
		{path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","count_only":true}`},
		{path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","limit":"1e1","revision":"3"}`},
		{path: "/v3/kv/range", body: `{` + foo + `,"revision":"1000"}`},
		{path: "/v3/kv/range", body: `{` + foo + `,"sort_order":"NOSUCH"}`},
		{path: "/v3/kv/range", body: `{` + foo + `,"sort_order":7}`},
		{path: "/v3/kv/range", body: `{` + foo + `,` + foo + `}`},
		{path: "/v3/kv/range", body: `{` + foo + `}{"key":5}`},
		{path: "/v3/kv/range", body: `{` + foo},
		{path: "/v3/kv/range", body: `x`},
		{path: "/v3/kv/range", body: `[]`},
		{path: "/v3/kv/range", body: `null`},
		{path: "/v3/kv/range", body: `{"key":"@"}`},
		{path: "/v3/kv/range", body: `{"limit":"12x"}`},
		{path: "/v3/kv/range", body: `{"limit":1.5}`},
		{path: "/v3/kv/range", body: `{"limit":9223372036854775808}`},
		{path: "/v3/kv/range", body: `{"serializable":"true"}`},
		{path: "/v3/kv/range", body: "{\"key\":\"\xff\"}"},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Grpc-Timeout", "1n"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Grpc-Timeout", "tomorrow"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Grpc-Metadata-hasleader", "true"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Grpc-Metadata-x-bin", "@"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Grpc-Metadata-client-api-version", "\u00e4"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Content-Type", "text/plain"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"X-HTTP-Method-Override", "GET"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"TE", "trailers"}},
		{path: "/v3/kv/range", body: `{` + foo + `}`, header: []string{"Origin", "http://page.example"}},
		{path: "/v3/kv/range?key=Zm9v", body: `{}`},
		{path: "/v3/kv/range/", body: `{}`},
		{path: "/v3/kv%2frange", body: `{` + foo + `}`},
		{path: "/v3/kv/range:verb", body: `{}`},
		{path: "/v3/kv/rangestream", body: `{}`},
		{path: "/v3/", body: `{}`},
		{path: "/v3", body: `{}`},
		{path: "/v3/kv/txn", body: `{"compare":[{"result":"EQUAL","target":"VALUE",` + foo + `,"value":"eA=="}],"success":[{"request_put":{` + foo + `}}],"failure":[{"requestRange":{` + foo + `}}]}`},
		{path: "/v3/kv/txn", body: `{"compare":[{"target":"VERSION",` + foo + `,"version":"6"}],"success":[{"request_put":{"key":"dHhu","value":"MQ=="}},{"request_txn":{"success":[{"request_delete_range":{"key":"bm8="}}]}}]}`},
		{path: "/v3/kv/txn", body: `{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}`},
		{path: "/v3/kv/txn", body: `{"success":[{"request_put":{"key":"YQ=="},"request_range":{"key":"YQ=="}}]}`},
		{path: "/v3/kv/txn", body: `{"success":[{}]}`},
		{path: "/v3/kv/txn", body: ``},
		{path: "/v3/kv/deleterange", body: `{"key":"dHhu","prev_kv":true}`},
		{path: "/v3/kv/deleterange", body: `{"key":"dHhu"}`},
		{path: "/v3/kv/compaction", body: `{"revision":"3","physical":true}`},
		{path: "/v3/kv/compaction", body: `{"revision":"3"}`},
		{path: "/v3/kv/compaction", body: `{"revision":"1000"}`},
		{path: "/v3/kv/range", body: `{` + foo + `,"revision":2}`},

		{path: "/v3/lease/grant", body: `{"ID":"71","TTL":"600"}`},
		{path: "/v3/lease/grant", body: `{"ID":71,"TTL":600}`},
		{path: "/v3/lease/grant", body: `{"ID":"72","TTL":"99999999999"}`},
		{path: "/v3/kv/put", body: `{"key":"bGVhc2Vk","lease":"71"}`},
		{path: "/v3/lease/timetolive", body: `{"ID":"71","keys":true}`},
		{path: "/v3/kv/lease/timetolive", body: `{"ID":"72"}`},
		{path: "/v3/lease/leases"},
		{path: "/v3/kv/lease/leases", body: `{}`},
		{path: "/v3/lease/keepalive", body: `{"ID":"71"}{"ID":"72"}`},
		{path: "/v3/lease/revoke", body: `{"ID":"71"}`},
		{path: "/v3/kv/lease/revoke", body: `{"ID":"71"}`},

		{path: "/v3/watch", body: `{"create_request":{` + foo + `,"start_revision":"4","prev_kv":true}}` + "\n" + `{"create_request":{"key":"YQ==","watch_id":"7","range_end":"AA=="}}`, lines: 3},
		{path: "/v3/watch", body: `{"create_request":{` + foo + `,"progress_notify":true}}{}`, lines: 1},
		{path: "/v3/watch", body: `{"create_request":{` + foo + `}}{"cancel_request":{"watch_id":"0"}}`, lines: 2},
		{path: "/v3/watch", body: `{"create_request":{` + foo + `,"start_revision":"2"}}`, lines: 2},

		{path: "/v3/cluster/member/list", body: `{"linearizable":true}`},
		{path: "/v3/cluster/member/add", body: `{"peerURLs":["nonsense"]}`},
		{path: "/v3/cluster/member/add", body: `{"peerURLs":["http://127.0.0.1:1"],"isLearner":true}`},
		{path: "/v3/cluster/member/update", body: `{"ID":"5","peerURLs":["http://127.0.0.1:2"]}`},
		{path: "/v3/cluster/member/promote", body: `{"ID":"5"}`},
		{path: "/v3/cluster/member/remove", body: `{"ID":"5"}`},
		{path: "/v3/maintenance/alarm", body: `{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`},
		{path: "/v3/kv/put", body: `{` + foo + `}`},
		{path: "/v3/maintenance/alarm", body: `{}`},
		{path: "/v3/maintenance/alarm", body: `{"action":"DEACTIVATE","memberID":"5","alarm":"NOSPACE"}`},
		{path: "/v3/maintenance/status"},
		{path: "/v3/maintenance/defragment", body: `{}`},
		{path: "/v3/maintenance/hash", body: `{}`},
		{path: "/v3/maintenance/hashkv", body: `{}`},
		{path: "/v3/maintenance/hashkv", body: `{"revision":"1"}`},
		{path: "/v3/maintenance/snapshot", body: `{}`},
		{path: "/v3/maintenance/snapshot", body: `{"x`},
		{path: "/v3/maintenance/transfer-leadership", body: `{"targetID":"5"}`},
		{path: "/v3/maintenance/downgrade", body: `{"action":"VALIDATE","version":"3.6.0"}`},
		{path: "/v3/maintenance/downgrade", body: `{"action":"CANCEL"}`},
		{path: "/v3/maintenance/downgrade", body: `{"action":"VALIDATE","version":"x"}`},

		{path: "/v3/lease/grant", body: `{"ID":"81","TTL":"600"}`},
		{path: "/v3/lock/lock", body: `{"name":"bA==","lease":"81"}`},
		{path: "/v3/lock/lock", body: `{"name":"bA==","lease":"81"}`},
		{path: "/v3/lock/lock", body: `{"name":"bA==","lease":"82"}`},
		{path: "/v3/lock/lock", body: `{"name":5}`},
		{path: "/v3/lock/unlock", body: `{"key":"` + b64("l/51") + `"}`},
		{path: "/v3/lock/unlock", body: `{"key":"` + b64("l/51") + `"}`},
		{path: "/v3/lock/unlock"},
		{path: "/v3/election/campaign", body: `{"name":"ZQ==","lease":"81","value":"dg=="}`},
		{path: "/v3/election/campaign", body: `{"name":"ZQ==","lease":"81","value":"dzI="}`},
		{path: "/v3/election/campaign", body: `{"name":"ZQ==","lease":"82"}`},
		{path: "/v3/election/leader", body: `{"name":"ZQ=="}`},
		{path: "/v3/election/leader", body: `{"name":"bm8="}`},
		{path: "/v3/election/observe", body: `{"name":"ZQ=="}`, lines: 1},
		{path: "/v3/election/proclaim", body: `{"leader":{"name":"ZQ==","key":"` + b64("e/51") + `","rev":"1","lease":"81"},"value":"eA=="}`},
		{path: "/v3/election/proclaim", body: `{"value":"eA=="}`},
		{path: "/v3/election/proclaim", body: `{"leader":{}}`},
		{path: "/v3/election/resign", body: `{"leader":{"name":"ZQ==","key":"` + b64("e/51") + `","rev":"1","lease":"81"}}`},
		{path: "/v3/election/resign", body: `{"leader":{}}`},
		{path: "/v3/election/resign"},

		{path: "/v3/auth/status"},
		{path: "/v3/auth/enable"},
		{path: "/v3/auth/user/add", body: `{"name":"root","password":"pw"}`},
		{path: "/v3/auth/user/add", body: `{"name":"root","password":"pw"}`},
		{path: "/v3/auth/user/add", body: `{"name":"u","options":{"no_password":true}}`},
		{path: "/v3/auth/user/list"},
		{path: "/v3/auth/user/changepw", body: `{"name":"root","password":"pw2"}`},
		{path: "/v3/auth/role/add", body: `{"name":"root"}`},
		{path: "/v3/auth/role/add", body: `{"name":"r"}`},
		{path: "/v3/auth/role/grant", body: `{"name":"r","perm":{"permType":"READWRITE","key":"Zm9v"}}`},
		{path: "/v3/auth/role/get", body: `{"role":"r"}`},
		{path: "/v3/auth/role/revoke", body: `{"role":"r","key":"Zm9v"}`},
		{path: "/v3/auth/role/list"},
		{path: "/v3/auth/user/grant", body: `{"user":"root","role":"root"}`},
		{path: "/v3/auth/user/grant", body: `{"user":"u","role":"r"}`},
		{path: "/v3/auth/user/get", body: `{"name":"u"}`},
		{path: "/v3/auth/user/revoke", body: `{"name":"u","role":"r"}`},
		{path: "/v3/auth/role/delete", body: `{"role":"r"}`},
		{path: "/v3/auth/user/delete", body: `{"name":"u"}`},
		{path: "/v3/auth/authenticate", body: `{"name":"root","password":"pw2"}`},
		{path: "/v3/auth/disable"},
	}
}

// TestEveryPathIsEtcds sends the same letters to both servers and compares the
// answers as JSON.
func TestEveryPathIsEtcds(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	desks := [2]desk{newDesk(t, judge), newDesk(t, judged)}
	for _, l := range letters() {
		a, b := desks[0].send(l), desks[1].send(l)
		if a != b {
			t.Errorf("POST %s %s %q\n--- etcd\n%s\n--- kvd\n%s", l.path, clip(l.body, 300), l.header, clip(a, 3000), clip(b, 3000))
		}
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} {
		for _, path := range []string{"/v3/kv/range", "/v3/watch", "/v3/nosuch", "/v3/"} {
			p := page{method: method, path: path}
			if a, b := tight(fetch(t, judge.ClientURL, p)), tight(fetch(t, judged.ClientURL, p)); a != b {
				t.Errorf("%s %s\n--- etcd\n%s\n--- kvd\n%s", method, path, a, b)
			}
		}
	}
}

// tight takes out the spaces that protojson puts behind commas in one build and
// not in another, so that nobody relies on them.
func tight(page string) string { return strings.ReplaceAll(page, `, "`, `,"`) }

// TestEveryPathHasALetter keeps the list above whole.
func TestEveryPathHasALetter(t *testing.T) {
	sent := map[string]bool{}
	for _, l := range letters() {
		sent[l.path] = true
	}
	for _, path := range gatewayPaths(t) {
		if !sent[path] {
			t.Errorf("nothing is sent to %s", path)
		}
	}
}

// gatewayPaths are those that etcd's descriptions name.
func gatewayPaths(t *testing.T) (all []string) {
	t.Helper()
	for _, file := range []protoreflect.FileDescriptor{pb.File_rpc_proto, electionFile(), lockFile()} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, _ := proto.GetExtension(methods.Get(j).Options(), annotations.E_Http).(*annotations.HttpRule)
				if rule == nil {
					continue
				}
				for _, r := range append([]*annotations.HttpRule{rule}, rule.AdditionalBindings...) {
					all = append(all, r.GetPost())
				}
			}
		}
	}
	if len(all) != 51 {
		t.Fatalf("etcd describes %d paths, the letters were written for 51: look at the new ones", len(all))
	}
	return all
}

func electionFile() protoreflect.FileDescriptor {
	return (&v3electionpb.CampaignRequest{}).ProtoReflect().Descriptor().ParentFile()
}

func lockFile() protoreflect.FileDescriptor {
	return (&v3lockpb.LockRequest{}).ProtoReflect().Descriptor().ParentFile()
}

// A desk writes down what one server answers, with its own names for what
// differs between servers.
type desk struct {
	t     *testing.T
	url   string
	names *strings.Replacer
}

func newDesk(t *testing.T, m *oracle.Member) desk {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	s, err := pb.NewMaintenanceClient(m.Dial()).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return desk{t: t, url: m.ClientURL, names: strings.NewReplacer(
		fmt.Sprint(s.Header.ClusterId), "CLUSTER", fmt.Sprint(s.Header.MemberId), "MEMBER",
		m.ClientURL, "CLIENT", m.PeerURL, "PEER", m.ClientURL[len("http://"):], "CLIENTADDRESS",
	)}
}

// local are fields whose values are a server's own, or of the moment.
var local = regexp.MustCompile(`"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|remaining_bytes|token)": ?"[^"]*"`)

// hash is of the rows on disk, which hold what is each server's own.
var hash = regexp.MustCompile(`"hash": ?[0-9]+`)

func (d desk) send(l letter) string {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+l.path, strings.NewReader(l.body))
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i+1 < len(l.header); i += 2 {
		req.Header.Set(l.header[i], l.header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var body string
	if l.lines == 0 {
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		body = string(all)
	} else {
		lines := bufio.NewReader(resp.Body)
		for range l.lines {
			line, err := lines.ReadString('\n')
			if body += line; err != nil {
				body += err.Error()
				break
			}
		}
	}
	var b strings.Builder
	fmt.Fprintln(&b, resp.Status, resp.TransferEncoding)
	resp.Header.Del("Date")
	resp.Header.Del("Content-Length")
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(resp.Header[name], ", "))
	}
	if l.path == "/v3/maintenance/snapshot" && resp.StatusCode == http.StatusOK {
		body = snapshotShape(body)
	}
	body = local.ReplaceAllString(d.names.Replace(body), `"$1":"N"`)
	body = strings.ReplaceAll(body, "\u00a0", " ") // package protobuf takes either, by the program
	if l.path == "/v3/maintenance/hash" {
		body = hash.ReplaceAllString(body, `"hash":0`)
	}
	var lines []string
	for line := range strings.Lines(body) {
		lines = append(lines, canonical(line))
	}
	slices.Sort(lines) // etcd sends events and the answers to requests as they come
	b.WriteString(strings.Join(lines, "\n"))
	return b.String()
}

// canonical writes JSON in one way; other text as it is.
func canonical(line string) string {
	var v any
	if json.Unmarshal([]byte(line), &v) != nil {
		return line
	}
	if answer, ok := v.(map[string]any); ok {
		nameless(answer)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return line
	}
	return string(b)
}

// nameless takes the IDs of other members out of an answer, which depend on the
// time, and puts the members in another order than that of their IDs.
func nameless(answer map[string]any) {
	members, _ := answer["members"].([]any)
	for _, m := range append(slices.Clone(members), answer["member"]) {
		if one, ok := m.(map[string]any); ok && one["ID"] != "MEMBER" {
			one["ID"] = "OTHER"
		}
	}
	slices.SortFunc(members, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
}

// snapshotShape tells of a snapshot what does not depend on its size.
func snapshotShape(body string) string {
	var first, last map[string]any
	n := 0
	for line := range strings.Lines(body) {
		var m map[string]map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return err.Error()
		}
		if last = m["result"]; n == 0 {
			first = last
		}
		n++
	}
	return fmt.Sprintf("several %v, first %v, last %v of %d\n", n > 1, slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(last)), len(fmt.Sprint(last["blob"])))
}

// TestAWebsocketIsEtcds speaks to both through a websocket.
func TestAWebsocketIsEtcds(t *testing.T) {
	t.Parallel()
	judge, judged := pair(t)
	var told [2][]string
	for i, m := range []*oracle.Member{judge, judged} {
		told[i] = overSocket(t, m)
	}
	if !slices.Equal(told[0], told[1]) {
		t.Errorf("--- etcd\n%s\n--- kvd\n%s", strings.Join(told[0], "\n"), strings.Join(told[1], "\n"))
	}
}

func overSocket(t *testing.T, m *oracle.Member) (told []string) {
	t.Helper()
	d := newDesk(t, m)
	open := func(path string, header http.Header) *websocket.Conn {
		conn, r, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(m.ClientURL, "http")+path, header)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		told = append(told, fmt.Sprint(r.Status, r.Header["Sec-Websocket-Protocol"]))
		if err := conn.SetReadDeadline(time.Now().Add(answerWithin)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	say := func(conn *websocket.Conn, text string) {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(conn *websocket.Conn) {
		kind, frame, err := conn.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, fmt.Sprint(kind, canonical(local.ReplaceAllString(d.names.Replace(string(frame)), `"$1":"N"`))))
	}
	watch := open("/v3/watch", nil)
	defer watch.Close()
	say(watch, `{"create_request":{"key":"d3M="}}`)
	hear(watch)
	keep := open("/v3/lease/keepalive?method=GET", http.Header{"Sec-WebSocket-Protocol": {"Bearer, tok"}, "Origin": {"http://page.example"}})
	defer keep.Close()
	say(keep, `{"ID":"5"}`)
	hear(keep)
	say(keep, `{"ID":6}`)
	hear(keep)
	told = append(told, d.send(letter{path: "/v3/kv/put", body: `{"key":"d3M=","value":"Mg=="}`}))
	hear(watch)
	say(watch, `{"progress_request":{}}`)
	hear(watch)
	say(watch, `{"cancel_request":{"watch_id":"0"}}`)
	hear(watch)
	return told
}
