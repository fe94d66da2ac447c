package wal
import ("testing";"math/rand/v2";"kvd/internal/vfs";"os";"fmt";"path/filepath";"encoding/json")
func TestZZ(t *testing.T){
 out:="/tmp/waletcd/images"; os.RemoveAll(out); os.MkdirAll(out,0o700)
 k:=0
 for seed:=uint64(100);seed<106;seed++{
  rng := rand.New(rand.NewPCG(seed, 1))
  m, o := newDisk(t); begin:=m.Ops()
  _, err := perform(t, m, o, script(rng, 60)); ok(t,err)
  for i:=0;i<600;i++{
   n:=begin+20+rng.IntN(m.Ops()-begin-19)
   disk:=m.Crash(n, vfs.Torn, rng)
   if !exists(disk,crashDir){continue}
  segs,_,_:=listSegments(disk,crashDir); r := &recovery{Options: Options{Files:disk,SegmentBytes:4096}, dir: crashDir, segments: segs}; r.complete(); ok(t,r.run()); if r.tail.torn==nil && !r.tail.debris {continue}; for i:=range r.segments{r.segments[i].close()}
   dir:=filepath.Join(out,fmt.Sprint(k)); os.Mkdir(dir,0o700); k++
   os.Mkdir(dir+"/wal",0o700)
   names,_:=disk.List(crashDir)
   for _,nm:=range names { os.WriteFile(dir+"/wal/"+nm, readFile(t,disk,crashDir+"/"+nm),0o600)}
   l,err:=Open(crashDir,Options{Files:disk,SegmentBytes:4096})
   ok(t,err)
   hs,_,_:=l.InitialState()
   var es [][3]any
   for _,e:=range content(t,l){ es=append(es,[3]any{e.GetIndex(),e.GetTerm(),e.Data})}
   b,_:=json.Marshal(map[string]any{"start":l.Start().Index,"startTerm":l.Start().Term,"term":hs.GetTerm(),"vote":hs.GetVote(),"commit":hs.GetCommit(),"entries":es})
   os.WriteFile(dir+"/ours.json",b,0o600)
   l.Close()
  }
 }
 t.Log(k)
}
func TestZZReopen(t *testing.T){
 bad:=0
 ds,_:=filepath.Glob("/tmp/waletcd/images/*")
 for _,d:=range ds { l,err:=Open(d+"/wal",Options{SegmentBytes:4096}); if err!=nil {t.Log(d,err); bad++; continue}; last,_:=l.LastIndex(); tm,_:=l.Term(last); if _,err:=os.Stat(d+"/theirs.ok"); err==nil && tm!=99 {t.Log(d,"last term",tm); bad++}; l.Close() }
 t.Log(len(ds),bad)
}
var zzt = map[string]int{}
func TestZZCount(t *testing.T){
  for seed:=uint64(1);seed<4;seed++{
  rng := rand.New(rand.NewPCG(seed, 1))
  m, o := newDisk(t); begin:=m.Ops()
  _, err := perform(t, m, o, script(rng, 60)); ok(t,err)
  for n:=begin;n<=m.Ops();n++{ for i:=0;i<4;i++{
   disk:=m.Crash(n, vfs.Torn, rng)
   if !exists(disk,crashDir){zzt["none"]++;continue}
   segs,_,_:=listSegments(disk,crashDir)
   r := &recovery{Options: Options{Files:disk,SegmentBytes:4096}, dir: crashDir, segments: segs}
   r.complete()
   ok(t,r.run())
   if r.tail.torn!=nil {zzt["torn"]++} else if r.tail.debris {zzt["debris"]++} else {zzt["clean"]++}
   zzt[fmt.Sprint("segs",len(segs))]++
  }}}
  t.Log(zzt)
}
