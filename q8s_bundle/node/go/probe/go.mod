module q8s.local/probe

go 1.26.0
