# Varnish as a streaming cache in memory. The benchmark replaces what stands between @ signs.
vcl 4.1;

backend origin {
    .host = "@origin_host@";
    .port = "@origin_port@";
    .max_connections = 2000;
    .first_byte_timeout = 60s;
    .between_bytes_timeout = 60s;
}

sub vcl_recv {
    return (hash);
}

sub vcl_backend_response {
    set beresp.ttl = 1h;
    set beresp.grace = 1h;
    set beresp.do_stream = true;
}
