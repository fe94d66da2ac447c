package mvcc

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func TestPointsFindWhatIsThereAndNothingElse(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p, twin := newPoints(NewHash(), 0), map[string]*entry{}
	for range 100_000 {
		key := fmt.Sprint("key/", r.IntN(5000))
		e := p.find([]byte(key))
		if e != twin[key] {
			t.Fatalf("%s: found %v, want %v", key, e, twin[key])
		}
		if e == nil {
			twin[key] = &entry{key: key}
			p.add(twin[key])
		} else if r.IntN(2) == 0 {
			p.remove(e)
			delete(twin, key)
		}
	}
}

func TestPointsAreReadWhileTheyChange(t *testing.T) {
	p := newPoints(NewHash(), 0)
	stays := &entry{key: "stays"}
	p.add(stays)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if p.find([]byte("stays")) != stays {
					t.Error("a key that is there was not found")
					return
				}
			}
		})
	}
	var passing []*entry
	for i := range 10_000 {
		e := &entry{key: fmt.Sprint("passes/", i)}
		p.add(e)
		if passing = append(passing, e); len(passing) > 1000 {
			p.remove(passing[0])
			passing = passing[1:]
		}
	}
	close(done)
	readers.Wait()
}
