package compat

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"

	"kvd/test/oracle"
)

// keyFiles writes the two halves of a key.
func keyFiles(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if k, ok := key.(*ecdsa.PrivateKey); ok {
		der, err = x509.MarshalECPrivateKey(k)
	}
	private = write("private.pem", map[bool]string{true: "EC PRIVATE KEY", false: "PRIVATE KEY"}[isEC(key)], der, err)
	der, err = x509.MarshalPKIXPublicKey(key.Public())
	return private, write("public.pem", "PUBLIC KEY", der, err)
}

func isEC(key crypto.Signer) bool {
	_, ok := key.(*ecdsa.PrivateKey)
	return ok
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A token that one of the two has signed is good for the other, by each method;
// and after a change of users it is old for both.
func TestSignedTokensAreEtcds(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of thirty-two bytes and more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	rsaPrivate, rsaPublic := keyFiles(t, must(rsa.GenerateKey(rand.Reader, 2048)))
	options := map[string]string{}
	for _, bits := range []string{"256", "384", "512"} {
		options["HS"+bits] = "priv-key=" + secret
		options["RS"+bits] = "pub-key=" + rsaPublic + ",priv-key=" + rsaPrivate
		options["PS"+bits] = "priv-key=" + rsaPrivate + ",ttl=10m"
	}
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		private, public := keyFiles(t, must(ecdsa.GenerateKey(curve, rand.Reader)))
		options[name] = "priv-key=" + private + ",pub-key=" + public
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPrivate, edPublic := keyFiles(t, edKey)
	options["EdDSA"] = "priv-key=" + edPrivate + ",pub-key=" + edPublic
	var held sync.WaitGroup
	slots := make(chan struct{}, 4)
	for method, keys := range options {
		held.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(method, func(t *testing.T) { signedSession(t, "jwt,sign-method="+method+","+keys) })
		})
	}
	held.Wait()
}

func signedSession(t *testing.T, option string) {
	u := newUsers(t, "--auth-token="+option)
	u.do(nobody, userAdd("root", "rootpw"), grantRole("root", "root"), roleAdd("r"), grantKeys("r", 2, "a", "b"),
		userAdd("ann", "annpw"), grantRole("ann", "r"), authOp("AuthEnable", &pb.AuthEnableRequest{}))
	u.logIn("root", "rootpw")
	u.logIn("ann", "annpw")
	u.tokens[0], u.tokens[1] = u.tokens[1], u.tokens[0] // to each the other's
	put := kv("Put", &pb.PutRequest{Key: []byte("a")})
	status := maintenance("Status", &pb.StatusRequest{})
	for i := range u.tokens {
		header, rest, _ := strings.Cut(u.tokens[i]["ann"], ".")
		u.tokens[i]["cut"] = header + "." + strings.Split(rest, ".")[0] + "."
		u.tokens[i]["none"] = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + strings.Split(rest, ".")[0] + "."
		u.tokens[i]["bent"] = u.tokens[i]["ann"][:len(u.tokens[i]["ann"])-8] + "AAAAAAAA"
	}
	for _, who := range []string{nobody, stranger, "cut", "none", "bent", "ann", "root"} {
		u.do(who, put, status, kv("Range", &pb.RangeRequest{Key: []byte("b")}), authStatus, watchOf("a", ""), watchOf("b", ""))
	}
	u.do("root", userAdd("bob", "x"))
	for _, who := range []string{"ann", "root"} { // made before the change
		u.do(who, put, status, kv("Range", &pb.RangeRequest{Key: []byte("a")}), watchOf("a", ""), authStatus,
			kv("Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{putOp([]byte("a"), false)}}),
			authOp("UserGet", &pb.AuthUserGetRequest{Name: "ann"}), authOp("UserList", &pb.AuthUserListRequest{}),
			lease("LeaseGrant", &pb.LeaseGrantRequest{ID: 5, TTL: 100}), lease("LeaseRevoke", &pb.LeaseRevokeRequest{ID: 5}))
	}
	u.logIn("ann", "annpw")
	u.do("ann", put)
}

// A member that can only verify gives out no tokens.
func TestAMemberWithThePublicKeyAloneVerifies(t *testing.T) {
	t.Parallel()
	private, public := keyFiles(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	signs := newUsers(t, "--auth-token=jwt,sign-method=ES256,priv-key="+private)
	verifies := newUsers(t, "--auth-token=jwt,sign-method=ES256,pub-key="+public)
	for _, u := range []*users{signs, verifies} {
		u.do(nobody, userAdd("root", "rootpw"), grantRole("root", "root"), authOp("AuthEnable", &pb.AuthEnableRequest{}))
	}
	verifies.do(nobody, authenticate("root", "rootpw"), authenticate("root", "wrong"))
	signs.logIn("root", "rootpw")
	verifies.tokens = signs.tokens
	verifies.do("root", kv("Put", &pb.PutRequest{Key: []byte("a")}), authStatus)
}

// Where a token stands in a call, and what else stands there.
func TestTokensAreFoundWhereEtcdFindsThem(t *testing.T) {
	t.Parallel()
	u := newUsers(t)
	u.do(nobody, userAdd("root", "rootpw"), grantRole("root", "root"), authOp("AuthEnable", &pb.AuthEnableRequest{}))
	u.logIn("root", "rootpw")
	for _, shown := range [][]string{
		{"token", "Bearer $"},
		{"authorization", "$"},
		{"authorization", "Bearer $"},
		{"token", "bearer $"},
		{"token", "Bearer  $"},
		{"token", "x", "authorization", "$"},
		{"token", "$", "authorization", "x"},
		{"token", ""},
		{"token", "$", "token", "x"},
		{"token", "x", "token", "$"},
		{"authorization", "Basic $"},
		{"token", "$ "},
		{"token", "$.1"},
		{"token", ".1"},
		{"token", "a."},
		{"token", "a.-1"},
		{"token", "a.1.2"},
		{"token", "a.0x1"},
		{"token", "a.99999999999999999999999"},
	} {
		var got [2]answer
		for i, s := range u.sides {
			md := metadata.MD{}
			for j := 0; j < len(shown); j += 2 {
				md.Append(shown[j], strings.ReplaceAll(shown[j+1], "$", u.tokens[i]["root"]))
			}
			got[i] = s.normal(s.call(md, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("a")}, &pb.RangeResponse{}))
		}
		if !same(got[0], got[1]) {
			t.Errorf("%q\n  etcd: %s\n  kvd:  %s", shown, got[0], got[1])
		}
	}
}

// What makes no sense as an option stops the start of both.
func TestTokenOptionsAreRefusedAsInEtcd(t *testing.T) {
	t.Parallel()
	private, _ := keyFiles(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	_, other := keyFiles(t, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	for _, option := range []string{
		"paper", "simple,x", "simple,x=1,x=2", "jwt", "jwt,sign-method=none", "jwt,sign-method=ES256", "jwt,sign-method=ES256,priv-key=/nowhere",
		"jwt,sign-method=ES256,priv-key=" + private + ",pub-key=" + other, "jwt,sign-method=RS256,priv-key=" + private,
		"jwt,sign-method=HS256", "jwt,sign-method=ES256,priv-key=" + private + ",ttl=x",
	} {
		for _, binary := range []oracle.Binary{oracle.Etcd(t), target(t)} {
			m := oracle.Launch(t, binary, oracle.Options{Args: []string{"--auth-token=" + option}})
			exit, err := m.Wait(oracle.ReadyWithin)
			if err != nil {
				t.Fatal(err)
			}
			if exit.InOrder() || !strings.Contains(m.Log(), "auth") {
				t.Errorf("%s with --auth-token=%s ends with %v:\n%s", binary.Name, option, exit, m.Log())
			}
		}
	}
}
