package sd

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// The names that a socket unit may give its sockets with FileDescriptorName=.
const (
	SocketClient  = "client"  // clients: gRPC and HTTP/1
	SocketPeer    = "peer"    // other members
	SocketMetrics = "metrics" // metrics and health only
)

// Sockets are the file descriptors that systemd opened for this process, by
// the name of their role. The receiver owns the files.
type Sockets map[string][]*os.File

// Inherit takes over the sockets passed by systemd and removes the variables
// that announced them, so that a second call and a child process find none.
// A name that is none of the roles is an error: a socket that nobody serves
// would accept connections and never answer.
func Inherit() (Sockets, error) {
	files := activation.Files(true)
	sockets := Sockets{}
	var strange []string
	for _, file := range files {
		name := file.Name()
		if !slices.Contains([]string{SocketClient, SocketPeer, SocketMetrics}, name) {
			strange = append(strange, fmt.Sprintf("%q (descriptor %d)", name, file.Fd()))
		}
		sockets[name] = append(sockets[name], file)
	}
	if len(strange) > 0 {
		sockets.Close()
		return nil, fmt.Errorf("inherited sockets: unknown name %s; "+
			"set FileDescriptorName= in the socket unit to client, peer or metrics",
			strings.Join(strange, ", "))
	}
	return sockets, nil
}

// Close closes every socket; those already closed are left alone.
func (s Sockets) Close() {
	for _, files := range s {
		for _, file := range files {
			file.Close() // closing twice is the only failure
		}
	}
}
