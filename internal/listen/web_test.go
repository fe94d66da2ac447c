package listen

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
)

func TestRequestsBehindASplitKnowTheirTLS(t *testing.T) {
	ca := newAuthority(t)
	port := openRole(t, secureRole(t, ca, Options{Credentials: ca.credentials(t, Files{TrustedCA: ca.file("ca.pem")}, Terms{})}))[0]
	split := NewSplit(port)
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- split.Run(t.Context()) }()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			http.Error(w, "plain", http.StatusTeapot)
			return
		}
		fmt.Fprint(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	})}
	KeepTLS(server)
	go func() { served <- server.Serve(split.HTTP) }()

	transport := &http.Transport{TLSClientConfig: ca.trust(ca.client(t, "alice", nil)), ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + port.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != "alice" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
