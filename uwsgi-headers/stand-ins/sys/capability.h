typedef int cap_value_t;
