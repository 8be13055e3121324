typedef struct z_stream z_stream;
