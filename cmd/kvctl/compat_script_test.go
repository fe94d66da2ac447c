package main

import (
	"context"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// step is one or more command lines for both programs. {kv}, {lease}, {all},
// {rpc} and {any} in a line stand for each of some formats in turn, {other} for
// the member that is not the first one.
type step struct {
	line   string
	input  string // with until: given line by line; "wait x" waits for x in the output
	env    []string
	until  string   // end the program when this is in its output
	hide   []string // what differs between any two runs
	shared bool     // both programs ask the same member; of two servers, numbers are not compared

	etcdOnly bool // etcd and kvd differ here on purpose

	prepare func(t *testing.T, c *clientv3.Client)
}

var formatSets = map[string][]string{
	"{kv}":    {"simple", "json", "fields", "protobuf"},
	"{lease}": {"simple", "json", "fields"},
	"{all}":   {"simple", "json", "fields", "table"},
	"{rpc}":   {"simple", "json", "protobuf"}, // of answers that have no other form
	"{any}":   formats,
}

func (s step) lines() (lines []string) {
	for set, formats := range formatSets {
		if strings.Contains(s.line, set) {
			for _, f := range formats {
				lines = append(lines, strings.ReplaceAll(s.line, set, f))
			}
			return lines
		}
	}
	return []string{s.line}
}

func run(lines ...string) (steps []step) {
	for _, l := range lines {
		steps = append(steps, step{line: l})
	}
	return steps
}

func grant(id int64) step {
	return step{prepare: func(t *testing.T, c *clientv3.Client) {
		_, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 10000})
		if err != nil {
			t.Fatal(err)
		}
	}}
}

// compatScripts are conversations of their own, each with new members.
func compatScripts() map[string][]step {
	return map[string][]step{
		"kv": kvScript(), "txn": append(run("put a 1", "put p/1 x", "put p/2 y"), txnScript()...), "lease": leaseScript(), "watch": watchScript(),
		"member": append(run("put a 1", "put a 2", "put b 3", "put b 4", "put c 5"), memberScript()...),
		"global": globalScript(), "lock": lockScript(), "utility": append(mirrorScript(), checkScript()...),
		"auth": append(userScript(), authScript()...), "formats": formatsScript(),
	}
}

// formatsScript has what the other scripts do not ask for, so that every command
// is in every format; see TestEveryCommandIsComparedInEveryFormat.
func formatsScript() []step {
	const self = "58a88bf978398f80"
	steps := append([]step{grant(0x1234)}, run(
		"put a 1", "put a 2", "put a 3", "put a 4", "put a 5", "put a 6",
		"alarm list -w {any}", "alarm disarm -w {any}", "auth disable -w {any}", "auth enable -w {any}", "auth status -w {any}",
		"check perf --load=huge -w {any}", "check datascale --load=huge -w {any}",
		"compaction 2 -w simple", "compaction 3 -w json", "compaction 4 -w fields", "compaction 5 -w table", "compaction 6 -w protobuf",
		"completion tcsh -w {any}", "defrag -w {any}", "defrag --cluster -w {any}", "downgrade cancel -w {any}", "downgrade validate 3.6.0 -w {any}",
		"downgrade enable 3.8 -w {rpc}", "endpoint hashkv -w protobuf", "endpoint health -w protobuf", "endpoint status -w protobuf",
		"get a -w table", "lease list -w table", "lease timetolive 1234 -w table",
		"make-mirror -w {any}", "member list -w {any}", "member promote "+self+" -w {rpc}", "member remove "+self+" -w {rpc}",
		"member update "+self+" --peer-urls http://127.0.0.1:1 -w {any}",
		"member add two --peer-urls http://127.0.0.1:1 -w {rpc}", "move-leader "+self+" -w {any}", "role list -w table", "user list -w {any}",
		"watch a --rev=6 -w table", "lock l true -w {any}",
	)...)
	for _, f := range formats {
		steps = append(steps, step{line: "snapshot save s.db -w " + f, hide: sizeOfSnapshot})
	}
	// No two keys of holders and leases are the same; in protobuf they move what is behind them.
	held := []string{`"key":"[^"]*"`, `"lease":\d+`, `(?s)\x12.\n.[le]2?/[0-9a-f]+.*`}
	steps = append(steps, step{line: "elect e me -w json", until: "\n", hide: held}, step{line: "lock l -w json", until: "\n", hide: held},
		step{line: "elect e2 me -w protobuf", until: "me", hide: held}, step{line: "lock l2 -w protobuf", until: "l2/", hide: held})

	// Formats that cannot show the answer. etcdctl does what it is asked for and
	// then fails, kvctl does nothing: from here on the members are not alike.
	learner := []string{`Member [0-9a-f ]{16} `}
	return append(append(steps,
		step{line: "member add two --learner --peer-urls http://127.0.0.1:2 -w table", hide: learner},
		step{line: "txn -w table", input: "\nget a\n\n\n"},
		oneOther("http://127.0.0.1:3"), step{line: "member remove {other} -w table"},
		oneOther(""), step{line: "member add two --learner --peer-urls http://127.0.0.1:4 -w fields", hide: learner},
		oneOther("http://127.0.0.1:5"), step{line: "member remove {other} -w fields"},
		step{line: "user add u:p -w table"},
		step{line: "user passwd u --interactive=false -w table", input: "pw\n"},
	), append(run(
		"del a -w table", "put a 1 -w table", "lease grant 10 -w table", "lease keep-alive --once 1234 -w table", "lease keep-alive 1234 -w table",
		"lease revoke 1234 -w table", "role add r -w table", "role get r -w table", "role grant-permission r read a -w table",
		"role revoke-permission r a -w table", "user get u -w table", "user grant-role u r -w table",
		"user revoke-role u r -w table", "user delete u -w table", "role delete r -w table", "lock l3 -w table", "elect e3 me -w table",
		"downgrade enable 3.6 -w table",
	), step{prepare: func(t *testing.T, c *clientv3.Client) {
		_, _ = c.Downgrade(t.Context(), clientv3.DowngradeCancel, "") // not where kvctl did nothing
	}}, step{line: "downgrade enable 3.6 -w fields"})...)
}

// oneOther leaves one member that was never started, with that URL; none if it
// is empty. No two have one URL: in one second they would have the same ID.
func oneOther(url string) step {
	return step{prepare: func(t *testing.T, c *clientv3.Client) {
		list, err := c.MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Members {
			if m.GetName() == "" {
				if _, err := c.MemberRemove(t.Context(), m.GetID()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if url != "" {
			if _, err := c.MemberAddAsLearner(t.Context(), []string{url}); err != nil {
				t.Fatal(err)
			}
		}
	}}
}

func kvScript() []step {
	steps := run(
		"put a 1 -w {kv}", "put a 2 --prev-kv -w {kv}", "put b 3 --hex --prev-kv -w {kv}", "put b 4 --hex --prev-kv -w {kv}",
		`put "k\x01\xff" "\n\x80"`, `put empty ""`, "put c -- -5", "put -- -d 6", "put é ü", "put p/1 x", "put p/2 y", "put p/3 z",
		"get a -w {kv}", "get a -w {kv} --hex", "get p/ --prefix -w {kv}", "get p/ --prefix --stream -w {kv}",
		"get p/ --prefix --keys-only -w {kv}", "get p/ --prefix --limit 2 -w {kv}", "get p/ --prefix --limit 2 --stream",
		`get "" --prefix -w {kv}`, `get "" --from-key`, `get "" --prefix --hex`, "get p --from-key --stream -w {kv}",
		"get none -w {kv}", "get a b -w {kv}", "get p/ --prefix --count-only -w fields", "get p/ --prefix --count-only",
		"get p/ --prefix --count-only --stream -w fields",
		"get p/ --prefix --print-value-only", "get p/ --prefix --print-value-only --hex", "get p/ --prefix --print-value-only -w json",
		"get a --rev 2 -w {kv}", "get a --rev 3 --stream", "get a --rev 9999", "get a --rev 9999 --stream", "get a --rev -1",
		"get p/ --prefix --order=DESCEND", "get p/ --prefix --order=ascend --sort-by=VALUE", `get "" --prefix --order=DESCEND --sort-by=MODIFY`,
		`get "" --prefix --sort-by=CREATE`, `get "" --prefix --sort-by=VERSION --order=DESCEND`, "get a --order=up", "get a --sort-by=SIZE",
		"get p/ --prefix --order=DESCEND --stream",
		"get a --consistency=s", "get a --consistency=l", "get a --consistency=x",
		`get "" --prefix --min-mod-rev=5 --max-mod-rev=8`, `get "" --prefix --min-create-rev=5`, `get "" --prefix --max-create-rev=5 --stream`,
		"get a --min-mod-rev 3 --max-mod-rev 2", "get a --min-create-rev 3 --max-create-rev 2",
		"get", "get a b c", "get a --prefix --from-key", "get a b --prefix", "get a --keys-only --count-only", "get a --nope", "get a -w nope",
		"g a", "put", "put onlykey", "put a --ignore-value", "put a x --ignore-value", "put nokey --ignore-value", "put nokey x --ignore-lease",
		"put a 9 --lease=1", "put a 9 --lease=zz", `put "" x`, "del none -w {kv}", "del p/1 --prev-kv -w {kv}", "del p/ --prefix --prev-kv -w {kv}",
		"put p/1 x", "del p/1 --prev-kv --hex -w {kv}", "del a b c", "del", "del a --prefix --from-key", "del x y --prefix",
		"del k l --range --prev-kv", "del y z", `del ""`, "put big "+strings.Repeat("x", 1000), "put a b --max-request-bytes=5", "get big --max-recv-bytes=50",
	)
	return append(steps,
		step{line: "put a", input: "from stdin\nsecond line\n"},
		step{line: "put huge", input: strings.Repeat("0123456789abcdef", 100_000)},
		step{line: "put toohuge", input: strings.Repeat("0123456789abcdef", 200_000), hide: []string{`\(\d+ vs\. \d+\)`}},
		step{line: "get a", env: []string{"KVCTL_WRITE_OUT=json"}},
		step{line: "get a", env: []string{"KVCTL_HEX=true", "KVCTL_WRITE_OUT=fields"}},
		step{line: "get a", env: []string{"KVCTL_API=3"}},
		step{line: "del huge -w json"},
	)
}

func txnScript() (steps []step) {
	for _, in := range []string{
		"\n\n\n", "", "\n", "\n\n",
		"val(\"a\") = \"x\"\n\nput a yes\n\nput a no\nget a\n\n",
		"mod(\"a\") > \"1\"\nver(\"a\") > \"0\"\ncreate(\"a\") != \"0\"\n\nget a\nget p --from-key --limit 2\nput q1 1 --prev-kv\ndel q --prefix --prev-kv\nget q1\n\nput no no\n\n",
		"c(\"none\") = \"0\"\n\nput 'x y' \"a\\tb\"\n\n\n",
		"value(\"a\") < \"zzz\"\n\nget \"x y\"\n\n\n",
		"\nput dup 1\nput dup 2\n\n\n",
		"\nget a --rev 99999\n\n\n",
		"\nput a b --lease=77\n\n\n",
		"\nput nokey --ignore-value\n\n\n",
		"bogus\n\n\n\n", "bogus(\"a\") = \"1\"\n\n\n\n", "mod(\"a\") > \"x\"\n\n\n\n", "mod(\"a\") > 1\n\n\n\n",
		"\nbogus a b\n\n\n", "\nget\n\n\n", "\nput a\n\n\n", "\nget a --nope\n\n\n", "\nput \"\" b\n\n\n",
		"\n" + strings.Repeat("get a\n", 129) + "\n\n",
	} {
		steps = append(steps, step{line: "txn -w {kv}", input: in}, step{line: "txn -i", input: in})
	}
	return append(steps, step{line: "txn a"}, step{line: "txn --hex", input: "\nget a\n\n\n"})
}

func leaseScript() []step {
	// What is left of a lease may change between the two runs.
	left := []string{`remaining\(\d+s\)`, `"ttl":\d+`, `"TTL" : \d+`}
	granted := []string{`[0-9a-f]{16} granted`, `"ID":\d+`, `"ID" : [0-9a-f]+`}
	return []step{
		grant(0x1234), grant(0x7fffffffffffffff), grant(5),
		{line: "lease grant 100 -w {lease}", hide: granted},
		{line: "lease grant 100 --hex -w {lease}", hide: granted},
		{line: "lease grant 99999999999"},
		{line: "lease grant"},
		{line: "lease grant ten"},
		{line: "put leased 1 --lease=1234"},
		{line: "put leased 2 --ignore-lease --prev-kv -w {kv}"},
		{line: "get leased -w {kv}"},
		{line: "get leased -w fields --hex"},
		{line: "lease timetolive 1234 -w {lease}", shared: true, hide: left},
		{line: "lease timetolive 1234 --keys -w {lease}", shared: true, hide: left},
		{line: "lease timetolive 1234 --keys --hex -w {lease}", shared: true, hide: left},
		{line: "lease timetolive 9999 -w {lease}"},
		{line: "lease timetolive 9999 --keys -w {lease}"},
		{line: "lease timetolive"},
		{line: "lease timetolive what"},
		{line: "lease list -w {lease}", shared: true},
		{line: "lease list --hex -w {lease}", shared: true},
		{line: "lease grant 0", hide: granted}, // they last two seconds, and are not to be counted
		{line: "lease grant -- -5", hide: granted},
		{line: "lease keep-alive --once 1234 -w {lease}"},
		{line: "lease keep-alive --once 9999 -w {lease}"},
		{line: "lease keep-alive 9999 -w {lease}"},
		{line: "lease keep-alive"},
		{line: "lease keep-alive 1234 -w {lease}", until: "10000"},
		{line: "put leased2 1 --lease=1234"}, // not before: etcd lists keys in no order
		{line: "lease revoke 1234 -w json"},
		{line: "lease revoke 1234 -w {lease}"},
		{line: "lease revoke 5 -w fields"},
		{line: "lease revoke 7fffffffffffffff"},
		{line: "lease revoke"},
		{line: "lease revoke what"},
		{line: "get leased --prefix"},
	}
}

func watchScript() []step {
	steps := run("put w/1 first", "put w/1 second", "put w/2 third", "del w/1", "put w/last last")
	// The end of the last event; all of a watch's output has come by then.
	const last = "w/last\nlast\n"
	ends := map[string]string{"simple": last, "json": "bGFzdA==", "fields": "\"last\"\n\"Lease\" : 0\n", "protobuf": "last"}
	for f, last := range ends {
		steps = append(steps,
			step{line: "watch w/ --prefix --rev 2 -w " + f, until: last},
			step{line: "watch w/ --prefix --rev 2 --prev-kv -w " + f, until: last},
		)
	}
	return append(steps,
		step{line: "watch w/ w0 --rev=2", until: last},
		step{line: "watch --rev=2 --prefix --hex w/", until: `\x2f\x6c\x61\x73\x74` + "\n" + `\x6c\x61\x73\x74` + "\n"},
		step{line: "watch --rev=2", env: []string{"KVCTL_WATCH_KEY=w/", "KVCTL_WATCH_RANGE_END=w0"}, until: last},
		step{line: "watch --rev=2", env: []string{"KVCTL_WATCH_RANGE_END=w0"}},
		step{line: "watch a", env: []string{"KVCTL_WATCH_KEY=w/"}},
		step{line: `watch w/ w0 --rev=2 -- sh -c "echo $ETCD_WATCH_REVISION, $ETCD_WATCH_EVENT_TYPE, $ETCD_WATCH_KEY, $ETCD_WATCH_VALUE."`, until: `"last".`},
		step{line: `watch w/ w0 --rev=2 -- sh -c "exit 7"`},
		step{line: "watch w/ w0 --rev=2 -- /not/there"},
		step{line: "watch"}, step{line: "watch a --"}, step{line: "watch -- sh"}, step{line: "watch a b --prefix"}, step{line: "watch --prefix"},
		step{line: "watch a --rev=x"}, step{line: "watch a -w nope"},
		step{line: "watch -i", input: "watch w/ w0 --rev=2\n", until: last},
		step{line: "watch -i -w json", input: "watch w/last --rev=2 --prev-kv\nwait bGFzdA\nwatch w/2 --rev=2\n", until: "dGhpcmQ="},
		step{line: "watch -i", input: "watch w/last --rev=2\nwait last\nprogress\n", until: "progress notify"},
		step{line: "watch -i", input: "watch w/last --rev=2 -- sh -c 'echo ran $ETCD_WATCH_KEY'\n", until: `ran "w/last"`},
		step{line: "watch -i", input: "\nnope\nwatch\nwatch a b --prefix\n"},
		step{line: "watch -i", input: "watch a --\n"},
		step{line: "watch -i", input: ""},
		step{line: "compaction 3"},
		step{line: "watch a --rev=2 -w {kv}"},
		step{line: "watch -i -w fields", input: "watch a --rev=2\n", until: "RaftTerm"},
	)
}

// sizeOfSnapshot is also a matter of when a server last wrote to its database.
var sizeOfSnapshot = []string{`\d+(\.\d+)? [kM]?B\b`}

func memberScript() []step {
	sizes := []string{`"dbSize(InUse)?":\d+`, `"DBSize(InUse)?" : \d+`}
	return []step{
		{line: "endpoint status -w {all}", shared: true},
		{line: "endpoint status --cluster -w {all}", shared: true},
		{line: "endpoint status --hex -w {all}", shared: true},
		{line: "endpoint status -w json", hide: append(sizes, `"raftIndex":\d+`, `"raftAppliedIndex":\d+`)},
		{line: "endpoint hashkv -w {all}"},
		{line: "endpoint hashkv --cluster -w {all}"},
		{line: "endpoint hashkv --rev 4 -w {all}"},
		{line: "endpoint hashkv --rev 1 -w {all}"},
		{line: "endpoint hashkv --rev 99999"},
		{line: "endpoint health -w {all}"},
		{line: "endpoint health --cluster -w {all}"},
		{line: "member list -w {all}"},
		{line: "member list --hex -w {all}"},
		{line: "member list -w protobuf"},
		{line: "member list --consistency=s"},
		{line: "alarm list -w {kv}"},
		{line: "alarm list extra"},
		// kvd would end this alarm by itself: there is space.
		{etcdOnly: true, prepare: func(t *testing.T, c *clientv3.Client) {
			_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(t.Context(), &pb.AlarmRequest{
				Action: pb.AlarmRequest_ACTIVATE, MemberID: 0x58a88bf978398f80, Alarm: pb.AlarmType_NOSPACE,
			})
			if err != nil {
				t.Fatal(err)
			}
		}},
		{line: "alarm list", etcdOnly: true, hide: []string{` +`}},
		{line: "alarm list -w json", etcdOnly: true},
		{line: "alarm list -w fields", etcdOnly: true},
		{line: "alarm list -w fields --hex", etcdOnly: true},
		{line: "put a full", etcdOnly: true},
		{line: "endpoint health -w {all}", etcdOnly: true},
		{line: "endpoint status -w {all}", shared: true, etcdOnly: true},
		{line: "alarm disarm -w json", etcdOnly: true},
		{line: "alarm disarm"},
		{line: "put a fits"},
		{line: "compaction 5"},
		{line: "compaction 5"},
		{line: "compaction 6 --physical"},
		{line: "compaction 99999"},
		{line: "compaction five"},
		{line: "compaction"},
		{line: "get a --rev 4"},
		{line: "defrag"},
		{line: "defrag --cluster"},
		{line: "move-leader 58a88bf978398f80"},
		{line: "move-leader 58a88bf978398f80 -w json"},
		{line: "move-leader 7"},
		{line: "move-leader"},
		{line: "move-leader xyz"},
		{line: "downgrade validate 3.6.0 -w {rpc}"},
		{line: "downgrade validate 3.5.0"},
		{line: "downgrade validate x"},
		{line: "downgrade enable 3.8"},
		{line: "downgrade cancel -w {rpc}"},
		{line: "member remove 7"},
		{line: "member remove 58a88bf978398f80"},
		{line: "member promote 7"},
		{line: "member promote 58a88bf978398f80"},
		{line: "member update 7 --peer-urls http://127.0.0.1:2"},
		{line: "member update 58a88bf978398f80 --peer-urls http://127.0.0.1:1 -w {rpc}"},
		{line: "member update 58a88bf978398f80 --peer-urls http://127.0.0.1:1 --hex -w json"},
		{line: "member add two --peer-urls http://127.0.0.1:1"},
		{line: "member add two --peer-urls http://127.0.0.1:1/path"},
		{line: "member add two --learner --peer-urls http://127.0.0.1:2", hide: []string{`Member [0-9a-f ]{16} `}},
		{line: "member add three --learner --peer-urls http://127.0.0.1:3"},
		{line: "member list --consistency=s", hide: []string{`[0-9a-f]+, unstarted`}},
		{line: "endpoint health --cluster"},
		{line: "snapshot save s.db", hide: sizeOfSnapshot},
		{line: "snapshot save /not/there/s.db"},
		{line: "snapshot save"},
		{line: "snapshot save a b"},
	}
}

func globalScript() []step {
	dead := []string{"KVCTL_ENDPOINTS=127.0.0.1:1"}
	var steps []step
	for _, l := range []string{
		"get a", "put a b", "del a", "compaction 3", "lease grant 5", "lease revoke 5", "member list", "alarm list",
		"endpoint status", "endpoint health", "endpoint hashkv", "endpoint status --cluster", "defrag", "move-leader 5", "snapshot save x.db",
	} {
		steps = append(steps, step{line: l + " --command-timeout=150ms", env: dead})
	}
	steps = append(steps, run(
		"get a --command-timeout=1ns", "get a --command-timeout=x", "get a --cert=", "get a --key=", "get a --cacert=",
		"get a --cert=/none --key=/none", "get a --cacert=/none", "bogus", "get a --endpoints=", "completion", "completion tcsh",
		"get a --user=root:pw", "get a --user=root --password=pw", "get a --auth-jwt-token=abc", "get a --keepalive-time=1s --keepalive-timeout=3s",
		"get a --discovery-srv=nowhere.invalid", "snapshot save x.db --endpoints=127.0.0.1:1,127.0.0.1:2",
	)...)
	// Two servers turn away TLS in different ways where they speak none.
	handshake := []string{`authentication handshake failed: .*`}
	return append(steps,
		step{line: "get a --insecure-transport=false --command-timeout=300ms", hide: handshake},
		step{line: "get a --insecure-skip-tls-verify --command-timeout=300ms", hide: handshake},
	)
}

func lockScript() []step {
	lease := []string{`"Lease" : \d+`, `/[0-9a-f]{13,16}`}
	return []step{
		{line: "lock", hide: lease},
		{line: "lock mine sh -c \"echo $ETCD_LOCK_REV in $ETCD_LOCK_KEY\"", hide: lease},
		{line: "lock mine -- sh -c \"exit 7\"", hide: lease},
		{line: "lock mine -- sh -c \"kill -9 $$\"", hide: lease},
		{line: "lock mine /not/there", hide: lease},
		{line: "lock mine --ttl=5 true", hide: lease},
		{line: "lock mine", until: "\n\n", hide: lease}, // the key, and the value that it has not,
		// A killed holder keeps its lock for as long as its lease.
		{line: "lock yours -w fields", until: "Count", hide: lease},
		{line: "lock mine --ttl=x"},
		{line: "elect"},
		{line: "elect a"},
		{line: "elect a b c"},
		{line: "elect -l a b"},
		{line: "elect office me", until: "me\n", hide: lease},
		{line: "elect bureau you -w fields", until: "Count", hide: lease},
		{line: "elect -l office", until: "me\n", hide: lease},
	}
}

func mirrorScript() []step {
	return []step{
		{line: "make-mirror"},
		{line: "make-mirror a b"},
		{line: "make-mirror --dest-prefix=x --no-dest-prefix 127.0.0.1:1 --command-timeout=1s"},
		{line: "make-mirror 127.0.0.1:1 --dest-cacert=/none"},
		{line: "make-mirror 127.0.0.1:1 --dest-cert=/none --dest-key=/none"},
	}
}

func checkScript() []step {
	return []step{
		{line: "check perf --load=huge"},
		{line: "check datascale --load=huge"},
		{line: "put /etcdctl-check-perf/x 1"},
		{line: "put /etcdctl-check-datascale/x 1"},
		{line: "check perf", hide: []string{`'?(etcdctl|kvctl) del --prefix \S+`}},
		{line: "check datascale", hide: []string{`'?(etcdctl|kvctl) del --prefix \S+`}},
		{line: "del /etcdctl-check --prefix"},
	}
}

// userScript is what there is about users and roles before authentication is
// turned on; authScript goes on from there.
func userScript() []step {
	steps := run(
		"auth status -w {rpc}", "auth enable", "auth enable x", "auth disable x", "auth status x", "auth disable",
		"role list -w {kv}", "user list -w {rpc}",
		"role add r1", "role add r2 -w {kv}", "role add r3 -w fields", "role add", "role add a b", `role add ""`,
		"role get r1 -w {kv}", "role get none -w {kv}", "role get", "role get root",
		"role grant-permission r1 read a -w {kv}", "role grant-permission r1 write b c", "role grant-permission r1 readwrite p/ --prefix",
		"role grant-permission r1 READWRITE q/ --from-key", `role grant-permission r1 read "" --prefix`, `role grant-permission r1 write "" --from-key`,
		`role grant-permission r1 read ""`, "role grant-permission r1 read z a", `role grant-permission r1 read "\xff" --prefix`,
		"role grant-permission r1 all a", "role grant-permission r1 read", "role grant-permission none read a",
		"role grant-permission r1 read a b --prefix", "role grant-permission r1 read a b --from-key", "role grant-permission r1 read a --prefix --from-key",
		"role get r1 -w {kv}", "role get r1 --hex -w {kv}", "role list -w {kv}",
		"role revoke-permission r1 a -w {kv}", "role revoke-permission r1 b c", "role revoke-permission r1 p/ --prefix",
		"role revoke-permission r1 q/ --from-key", `role revoke-permission r1 "" --prefix`, "role revoke-permission r1", "role revoke-permission r1 none",
		"role revoke-permission none a", "role get r1", "role delete r3 -w {kv}", "role delete r2 -w json", "role delete none", "role delete",
		"user add", "user add u1:pw", "user add u2:pw -w json", "user add u3:pw -w fields", "user add u4:pw:with:colons -w protobuf",
		"user add :pw", "user add u1:pw", "user add u5 --new-user-password=pw", "user add u6 --no-password", "user add u7 --no-password -w json",
		"user list -w {rpc}", "user list x", "user get u1 -w {rpc}", "user get none", "user get", "user get u1 --detail",
		"user grant-role u1 r1 -w {kv}", "user grant-role u1 none", "user grant-role none r1", "user grant-role u1",
		"user get u1 -w {rpc}", "user get u1 --detail -w {kv}",
		"user revoke-role u1 r1 -w fields", "user revoke-role u1 r1 -w {kv}", "user revoke-role u1", "user revoke-role none r1",
		"user delete u2 -w {kv}", "user delete u3 -w fields", "user delete none", "user delete", "user passwd", "user passwd a b",
	)
	// Without a terminal etcdctl's helper complains about it and goes on.
	noTerminal := []string{`stty: .*\n`}
	return append(steps,
		step{line: "user add u8", input: "pw\npw\n", hide: noTerminal},
		step{line: "user add u9", input: "pw\nother\n", hide: noTerminal},
		step{line: "user add u9", input: "\n", hide: noTerminal},
		step{line: "user add u9", input: "", hide: noTerminal},
		step{line: "user add u9 --interactive=false", input: "  pw more\n"},
		step{line: "user passwd u9", input: "new\nnew\n", hide: noTerminal},
		step{line: "user passwd u9 -w {kv} --interactive=false", input: "pw\n"},
		step{line: "user passwd none --interactive=false", input: "pw\n"},
		step{line: "user delete u8 -w protobuf"},
		step{line: "user add root:secret"},
		step{line: "auth enable"},
		step{line: "auth status"},
		step{line: "auth status --user=root:secret -w {rpc}"},
		step{line: "auth enable --user=root:secret"},
		step{line: "user list --user=u9:pw"}, step{line: "user get u9 --user=u9:pw"}, step{line: "user get u1 --user=u9:pw"},
		step{line: "role get root --user=root:secret -w {kv}"},
		step{line: "user get root --user=root:secret --detail"},
		step{line: "lock mine true --user=u9:pw", hide: []string{`\(\w+\) .*\n`}}, // kvctl gives the lease back, which is logged
		step{line: "auth disable"}, step{line: "auth disable --user=u9:pw"}, step{line: "auth disable --user=root:secret"},
		step{line: "user delete root"}, step{line: "role delete root"},
	)
}

func authScript() []step {
	user := func(t *testing.T, c *clientv3.Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for _, name := range []string{"root", "bob"} {
			if _, err := c.UserAdd(ctx, name, "pw"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.UserGrantRole(ctx, "root", "root"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.AuthEnable(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return append([]step{{prepare: user}}, append(run(
		"get a", "put a b", "endpoint health", "endpoint status", "endpoint hashkv", "member list", "lease list", "snapshot save x.db",
		"get a --user=root:pw -w {kv}", "get a --user=root --password=pw", "get a --user=root:wrong", "get a --user=nobody:pw",
		"get a --user=bob:pw", "put a b --user=bob:pw", "endpoint health --user=bob:pw", "endpoint health --user=root:pw -w {all}",
		"watch a --user=bob:pw", "watch a", "alarm list --user=bob:pw", "defrag --user=bob:pw", "txn --user=bob:pw",
		"get a --auth-jwt-token=wrong",
	),
		step{line: "snapshot save x.db --user=root:pw", hide: sizeOfSnapshot},
		step{line: "get a", env: []string{"KVCTL_USER=root:pw"}},
		step{line: "get a", env: []string{"KVCTL_USER=root", "KVCTL_PASSWORD=pw"}},
		step{line: "get a --user=root", input: "pw\n", hide: []string{`stty: .*\n`}},
		step{line: "txn --user=bob:pw", input: "\nget a\n\n\n"},
	)...)
}
