package vduse

// Dismiss answers the messages of a device that no process serves, until k is closed, so that it
// can leave the bus: its driver resets it, and gets nothing else.
func Dismiss(k Kernel) {
	b := make([]byte, RequestBytes)
	for {
		n, err := k.Read(b)
		if err != nil {
			return
		}
		r, err := ParseRequest(b[:n])
		if err != nil {
			return
		}
		fails := !(r.Type == SetStatus && r.Status == 0 || r.Type == UpdateIOTLB)
		if _, err := k.Write(Response{ID: r.ID, Failed: fails}.Append(nil)); err != nil {
			return
		}
	}
}
