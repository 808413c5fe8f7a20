module q8s.local/pause

go 1.26.0
