package lease

import (
	"math"
	"time"
)

const _ = math.MaxInt
type Deadlines struct{}
func (d *Deadlines) Set(id ID, at time.Time) {}
func (d *Deadlines) Remove(id ID)  {}
func (d *Deadlines) Clear()  {}
func (d *Deadlines) Len() int  { return 0 }
func (d *Deadlines) Deadline(id ID) (time.Time, bool) { return time.Time{}, false }
func (d *Deadlines) Expired(now time.Time, retry time.Duration, most int) []ID { return nil }
func (d *Deadlines) Promote(v View, now time.Time, extend time.Duration) {}
type Checkpoint struct { ID ID; Remaining int64 }
func (d *Deadlines) Schedule(l Lease, now time.Time) {}
func (d *Deadlines) DueCheckpoints(v View, now time.Time, most int) []Checkpoint { return nil }
