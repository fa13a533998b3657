"""Every QT_ name of the fleet. A test holds this list against the settings classes of all services."""

FLEET_NAMES: frozenset[str] = frozenset(
    {
        # every service
        "QT_ACCOUNT",
        "QT_API_TOKEN",
        "QT_CLOCK",
        "QT_HOST",
        "QT_INSTANCE",
        "QT_LOG_DIR",
        "QT_LOG_FORMAT",
        "QT_LOG_LEVEL",
        "QT_MODELS_DIR",
        "QT_PARTITIONS",
        "QT_PORT",
        "QT_PORT_OFFSET",
        "QT_REDIS_URL",
        "QT_STATE_DIR",
        "QT_SYMBOLS",
        "QT_TIMEFRAME",
        # the venue, as feature-svc and executor-svc see it
        "QT_EXCHANGE",
        "QT_VENUE_TIMEOUT_MS",
        "QT_VENUE_URL",
        # feature-svc
        "QT_FROM_MS",
        "QT_LATE_BAR_WAIT_MS",
        "QT_POLL_MS",
        "QT_WARMUP_BARS",
        # meta-svc
        "QT_RESET_STATS_NEEDS_TOKEN",
        # governer-svc
        "QT_AVG_WIN_LOSS_RATIO",
        "QT_COOLDOWN_AFTER_LOSS_MINUTES",
        "QT_EMERGENCY_STOP",
        "QT_KELLY_FRACTION",
        "QT_MARKET",
        "QT_MAX_DAILY_LOSS_PCT",
        "QT_MAX_DAILY_TRADES",
        "QT_MAX_DRAWDOWN_PCT",
        "QT_MAX_POSITION_SIZE_PCT",
        "QT_MAX_SIGNAL_AGE_S",
        "QT_MAX_TOTAL_EXPOSURE_PCT",
        "QT_MIN_CONFIDENCE_THRESHOLD",
        "QT_RISK_PER_TRADE_PCT",
        "QT_TRADING_STATE",
        "QT_WIN_RATE",
        # executor-svc
        "QT_ENTRY_PRICE_MARGIN_BPS",
        "QT_HORIZON_BARS",
        "QT_LIVE_CONFIRM",
        "QT_LOOK_EVERY_S",
        "QT_MAX_SKEW_MS",
        "QT_MODE",
        "QT_RECONCILE_EVERY_S",
        "QT_UNFILLED_TRIGGER_MS",
        "QT_VENUE_API_KEY",
        "QT_VENUE_API_SECRET",
        "QT_VENUE_RECEIVE_WINDOW_MS",
        # recorder-svc
        "QT_LEDGER_URL",
        # exchange-sim
        "QT_SIM_API_KEY",
        "QT_SIM_API_SECRET",
        "QT_SIM_CANDLE_VENUE",
        "QT_SIM_DATABASE",
        "QT_SIM_DATA_DIR",
        "QT_SIM_DEPTH_USD",
        "QT_SIM_FUNDING_RATE",
        "QT_SIM_INITIAL_BALANCE",
        "QT_SIM_MAKER_FEE_BPS",
        "QT_SIM_SLIPPAGE_BPS",
        "QT_SIM_SPREAD_BPS",
        "QT_SIM_START_MS",
        "QT_SIM_TAKER_FEE_BPS",
        # tests and benchmarks
        "QT_DATA_DIR",
    }
)

TOOLKIT_NAMES: tuple[str, ...] = (
    "QT_ACCESSIBILITY",
    "QT_AUTO_SCREEN_SCALE_FACTOR",
    "QT_ENABLE_HIGHDPI_SCALING",
    "QT_FONT_DPI",
    "QT_IM_MODULE",
    "QT_LOGGING_RULES",
    "QT_PLUGIN_PATH",
    "QT_QPA_",
    "QT_QUICK_",
    "QT_SCALE_FACTOR",
    "QT_SCREEN_SCALE_FACTORS",
    "QT_STYLE_OVERRIDE",
    "QT_WAYLAND_",
    "QT_X11_NO_MITSHM",
)
"""Beginnings of names that desktop sessions export for the Qt toolkit, which are not ours to judge."""
