package bootstrap

import (
	"slices"
	"testing"
)

func TestURLsFromDNS(t *testing.T) {
	z := &zone{records: []string{
		"_etcd-server._tcp.ex n1.ex. 2380", "_etcd-server-ssl._tcp.ex n2.ex. 2380",
		"_etcd-client._tcp.ex n1.ex. 2379", "_etcd-client._tcp.ex n1.ex. 2379", "_etcd-client-ssl-x._tcp.ex n2.ex. 2379",
	}}
	peers, err := SRV{Domain: "ex"}.PeerURLs(t.Context(), z)
	if want := []string{"https://n2.ex:2380", "http://n1.ex:2380"}; err != nil || !slices.Equal(peers, want) {
		t.Errorf("peers: %v, %v, want %v", peers, err, want)
	}
	clients, err := SRV{Domain: "ex"}.ClientURLs(t.Context(), z)
	if want := []string{"http://n1.ex:2379"}; err != nil || !slices.Equal(clients, want) {
		t.Errorf("clients: %v, %v, want %v", clients, err, want)
	}
	clients, err = SRV{Domain: "ex", Suffix: "x"}.ClientURLs(t.Context(), z)
	if want := []string{"https://n2.ex:2379"}; err != nil || !slices.Equal(clients, want) {
		t.Errorf("clients of the suffix: %v, %v, want %v", clients, err, want)
	}
	if urls, err := (SRV{Domain: "other"}).PeerURLs(t.Context(), z); err == nil {
		t.Errorf("a domain without records: %v", urls)
	}
}
