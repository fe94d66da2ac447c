package member

import (
	"encoding/json"
	"testing"
	"time"
)

func TestIDsAreThoseOfEtcd(t *testing.T) {
	for _, c := range []struct {
		urls  []string
		token string
		want  string
	}{
		{[]string{"http://localhost:2380"}, "etcd-cluster", "8e9e05c52164694d"},
		{[]string{"http://127.0.0.1:31191"}, "tok1", "6f6027b3564e89d8"},
		{[]string{"http://127.0.0.1:31281", "http://127.0.0.1:31280"}, "T2", "38695e71cfed1895"},
		{[]string{"http://127.0.0.1:32380"}, "tok1", "c437c30fb21fc940"},
	} {
		if id := NewID(c.urls, c.token); id.String() != c.want {
			t.Errorf("%v of %s is %s, want %s", c.urls, c.token, id, c.want)
		}
	}
	if id := AddedID([]string{"http://127.0.0.1:31194"}, time.Unix(1795345298, 999_999_999)); id.String() != "3b614b5dbcef6d95" {
		t.Errorf("the added member is %s", id)
	}
}

func TestNewIDLeavesTheURLsAsTheyAre(t *testing.T) {
	urls := []string{"b", "a"}
	NewID(urls, "")
	if urls[0] != "b" {
		t.Errorf("%v", urls)
	}
}

func TestClusterIDsAreThoseOfEtcd(t *testing.T) {
	for _, c := range []struct {
		ids  []ID
		want string
	}{
		{[]ID{0x8e9e05c52164694d}, "cdf818194e3a8c32"},
		{[]ID{0xc3729c1717902760, 0x6f6027b3564e89d8, 0x7689fd9fc688eed3}, "aa3e9fbe54ec35b6"},
	} {
		if id := ClusterIDOf(c.ids); id.String() != c.want {
			t.Errorf("%v make %s, want %s", c.ids, id, c.want)
		}
	}
}

func TestIDsHaveNoLeadingZeros(t *testing.T) {
	id, err := ParseID("63e0d1f4845b64b")
	if err != nil || id != 0x63e0d1f4845b64b || id.String() != "63e0d1f4845b64b" {
		t.Errorf("%s, %v", id, err)
	}
	for _, text := range []string{"", "xyz", "-1", "11112222333344445"} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("%q is %s", text, id)
		}
	}
}

func TestMemberJSONIsEtcds(t *testing.T) {
	for want, m := range map[string]Member{
		`{"id":7,"peerURLs":null}`:             {ID: 7},
		`{"id":7,"peerURLs":["u"],"name":"m"}`: {ID: 7, PeerURLs: []string{"u"}, Name: "m"},
		`{"id":18446744073709551615,"peerURLs":["u","v"],"isLearner":true,"name":"m","clientURLs":["c"]}`: {
			ID: 1<<64 - 1, PeerURLs: []string{"u", "v"}, Learner: true, Name: "m", ClientURLs: []string{"c"},
		},
	} {
		if got, err := json.Marshal(m); err != nil || string(got) != want {
			t.Errorf("%s, want %s; %v", got, want, err)
		}
	}
}

func TestVersionsAreReadAndOrdered(t *testing.T) {
	for text, want := range map[string]Version{
		"3.7.0": {3, 7, 0}, "3.7": {3, 7, 0}, "3.10.12": {3, 10, 12}, "0.0.0": {},
	} {
		if v, err := ParseVersion(text); err != nil || v != want {
			t.Errorf("%s is %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "3", "3.7.0.1", "3.x", "3.7.-1", "3.7.0-rc.1", "not_decided", "3.+7"} {
		if v, err := ParseVersion(text); err == nil {
			t.Errorf("%q is %v", text, v)
		}
	}
	ascending := []Version{{}, {3, 6, 9}, {3, 7, 0}, {3, 7, 3}, {3, 10, 0}, {4, 0, 0}}
	for i, v := range ascending {
		for j, w := range ascending {
			if got := v.Compare(w); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%s against %s: %d", v, w, got)
			}
		}
	}
	if v := (Version{3, 7, 3}); v.String() != "3.7.3" || v.Line() != (Version{3, 7, 0}) || !v.Known() || (Version{}).Known() {
		t.Error(v)
	}
}
