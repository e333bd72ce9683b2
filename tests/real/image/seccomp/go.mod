module touchline/seccomp

go 1.21
