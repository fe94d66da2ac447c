// Command kvd is the daemon.
package main

func main() {}
